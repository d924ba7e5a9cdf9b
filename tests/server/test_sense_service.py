"""SenseService over a real socket, and words' vectors in the space that senses are told in."""

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2

from encoder.senses import fit
from polyseme.v1 import admin_pb2, common_pb2, encoder_pb2, sense_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

FRUIT = [
    "Apple was juicy and sweet",
    "She peeled an apple and ate it",
    "The apple fell from the tree in the orchard",
    "An apple a day, washed and sliced",
]
FIRM = [
    "Apple stock crashed today",
    "Apple announced a new phone",
    "Investors sold their Apple shares",
    "The software was written by Apple engineers",
]
APPLES = [*((text, "fruit") for text in FRUIT), *((text, "firm") for text in FIRM)]
BANKS = [
    ("They sat on the grassy bank of the river", "river"),
    ("The bank raised its interest rates", "money"),
]


def example(text, sense, word="apple", **changes):
    return sense_pb2.SenseExample(text=text, sense=sense, word=word, **changes)


def fit_request(*examples, **changes):
    given = examples or [example(text, sense) for text, sense in APPLES]
    return sense_pb2.FitSensesRequest(examples=given, **changes)


def asking(inventory, *texts, **changes):
    inputs = [
        text if not isinstance(text, str) else sense_pb2.SenseInput(text=text) for text in texts
    ]
    return sense_pb2.ClassifySensesRequest(inventory=inventory, inputs=inputs, **changes)


def at(start, end):
    return encoder_pb2.WordTarget(span=common_pb2.Span(start=start, end=end))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def inventory(stubs):
    return (await stubs.senses.FitSenses(fit_request())).inventory


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def both(stubs):
    banks = [example(text, sense, "bank") for text, sense in BANKS]
    banks.append(example("The banks of the Nile", "river", "bank", target=at(4, 9)))
    apples = [example(text, sense) for text, sense in APPLES]
    return (await stubs.senses.FitSenses(fit_request(*apples, *banks))).inventory


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value


def details(error):
    trailer = dict(error.trailing_metadata())["grpc-status-details-bin"]
    found = {}
    for packed in status_pb2.Status.FromString(trailer).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            if packed.Is(kind.DESCRIPTOR):
                found[kind] = kind()
                packed.Unpack(found[kind])
    return found


def field_of(error):
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    return details(error)[error_details_pb2.BadRequest].field_violations[0].field


async def test_an_inventory_says_what_taught_it(stubs, inventory):
    (word,) = inventory.words

    assert word.word == "apple"
    assert [(sense.name, sense.examples) for sense in word.senses] == [("firm", 4), ("fruit", 4)]
    assert (word.weights.rows, word.weights.columns) == (2, 768)
    assert word.checked == 8
    assert word.checked_right >= 6
    info = await stubs.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())
    assert inventory.fingerprint == info.models[0].sense_vectors.fingerprint
    assert info.limits.senses_max == 1024


async def test_senses_of_unseen_sentences_are_told(stubs, inventory):
    reply = await stubs.senses.ClassifySenses(
        asking(inventory, "He bit into a ripe apple", "Apple sued a rival over its patents")
    )

    ripe, sued = reply.results
    assert (ripe.sense, sued.sense) == ("fruit", "firm")
    for result in reply.results:
        told = [each.probability for each in result.probabilities]
        assert sum(told) == pytest.approx(1)
        assert told == sorted(told, reverse=True)
        assert result.margin == pytest.approx(told[0] - told[1])
        assert result.probabilities[0].sense == result.sense
        assert result.word == "apple"
    assert (ripe.span.start, ripe.span.end) == (19, 24)
    assert ripe.tokens.tokens_used == 8
    assert reply.fingerprint == inventory.fingerprint


async def test_the_inventory_is_what_the_vectors_of_the_sense_space_teach(stubs, inventory):
    reply = await stubs.encoder.EmbedWords(
        encoder_pb2.EmbedWordsRequest(
            inputs=[
                encoder_pb2.WordsInput(text=text, targets=[at(*place(text))]) for text, _ in APPLES
            ],
            space=encoder_pb2.WORD_SPACE_SENSE,
        )
    )

    vectors = np.stack([np.frombuffer(r.words[0].vector.data, "<f4") for r in reply.results])
    ours = fit("apple", vectors, [sense for _, sense in APPLES])
    theirs = np.frombuffer(inventory.words[0].weights.data, "<f4").reshape(2, 768)
    np.testing.assert_allclose(ours.weights, theirs, rtol=1e-5, atol=1e-5)
    assert ours.temperature == pytest.approx(inventory.words[0].temperature)
    assert reply.fingerprint == inventory.fingerprint
    assert reply.space == encoder_pb2.WORD_SPACE_SENSE


def place(text):
    start = text.lower().index("apple")
    return start, start + 5


async def test_the_sense_space_is_the_word_beside_its_sentence(stubs, encoder):
    text = "Apple stock crashed"
    request = encoder_pb2.EmbedWordsRequest(
        inputs=[encoder_pb2.WordsInput(text=text, targets=[at(0, 5)])]
    )
    plain = await stubs.encoder.EmbedWords(request)
    request.space = encoder_pb2.WORD_SPACE_SENSE
    sense = await stubs.encoder.EmbedWords(request)
    sentence = await stubs.encoder.Embed(encoder_pb2.EmbedRequest(inputs=[text]))

    word, other = (np.frombuffer(r.results[0].words[0].vector.data, "<f4") for r in (plain, sense))
    whole = np.frombuffer(sentence.embeddings[0].vector.data, "<f4")
    assert encoder.sense_space.whitening is None  # this model was imported without one
    np.testing.assert_allclose(other, np.concatenate([word, whole]) / np.sqrt(2), atol=1e-5)
    assert plain.fingerprint.combined != sense.fingerprint.combined
    assert plain.space == encoder_pb2.WORD_SPACE_CONTEXT


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"layers": [3]}, "layers"), ({"normalize": False}, "normalize"), ({"space": 9}, "space")],
)
async def test_what_the_sense_space_has_of_its_own_cannot_be_asked_for(stubs, changes, field):
    request = encoder_pb2.EmbedWordsRequest(
        inputs=[encoder_pb2.WordsInput(text="Apple")],
        **{"space": encoder_pb2.WORD_SPACE_SENSE, **changes},
    )

    assert field_of(await refused(stubs.encoder.EmbedWords(request))) == field


async def test_a_result_does_not_depend_on_company(stubs, inventory):
    text = "An apple rolled off the table"
    alone = await stubs.senses.ClassifySenses(asking(inventory, text))
    together = await stubs.senses.ClassifySenses(asking(inventory, *FIRM, text))

    assert together.results[-1] == alone.results[0]


async def test_words_are_found_told_or_pointed_at(stubs, both):
    both_words = "The bank sold its Apple shares"
    reply = await stubs.senses.ClassifySenses(
        asking(
            both,
            both_words,
            sense_pb2.SenseInput(text=both_words, word="APPLE"),
            sense_pb2.SenseInput(text="Two apples fell", target=at(4, 10), word="apple"),
            sense_pb2.SenseInput(text=both_words, target=at(18, 23)),
            "Two BANKS failed",
            sense_pb2.SenseInput(text="Two banks failed", word="bank"),
        )
    )

    names = [result.word for result in reply.results]
    assert names == ["bank", "apple", "apple", "apple", "bank", "bank"]
    assert [result.span.start for result in reply.results] == [4, 18, 4, 18, 4, 4]
    assert [list(word.forms) for word in both.words] == [[], ["banks"]]
    assert reply.results[1] == reply.results[3]


async def test_one_example_a_sense_will_do(stubs):
    request = fit_request(*(example(text, sense, "bank") for text, sense in BANKS))
    fitted = await stubs.senses.FitSenses(request)
    reply = await stubs.senses.ClassifySenses(
        asking(fitted.inventory, "Boats were tied up along the river bank")
    )

    (word,) = fitted.inventory.words
    assert (word.checked, word.temperature) == (0, 1)
    assert reply.results[0].sense == "river"


async def test_the_same_use_given_twice_counts_once(stubs, inventory):
    twice = [example(text, sense) for text, sense in [*APPLES, *APPLES[:3]]]

    again = (await stubs.senses.FitSenses(fit_request(*twice))).inventory

    assert again.words == inventory.words


async def test_case_makes_no_other_word_and_a_target_names_one(stubs):
    mixed = [
        sense_pb2.SenseExample(text=text, sense=sense, target=at(*place(text)))
        for text, sense in APPLES
    ]

    fitted = await stubs.senses.FitSenses(fit_request(*mixed))

    assert [word.word for word in fitted.inventory.words] == ["Apple"]  # as it is first spelled


LONG = "apple " + "word " * 400


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([], "examples"),
        ([example("", "fruit")], "examples[0].text"),
        ([example("An apple", "")], "examples[0].sense"),
        ([example("An apple", " ")], "examples[0].sense"),
        ([example("An apple", "fr\nuit")], "examples[0].sense"),
        ([example("An apple", "x" * 600)], "examples[0].sense"),
        ([example("A pear", "fruit")], "examples[0].text"),
        ([example("Two apples", "fruit")], "examples[0].text"),
        ([example("An apple", "fruit", word="")], "examples[0].word"),
        ([example("An apple", "fruit", target=at(3, 99))], "examples[0].target.span"),
        ([example("An apple", "fruit")], "examples"),
        ([example("An apple", "fruit"), example("Apple pie", "fruit")], "examples"),
        ([example("An apple", "a"), example("Apple", "b"), example("An apple", "b")],
         "examples[2].sense"),
        ([example("An apple", "a"), example("The bank", "b", "bank")], "examples"),
        ([example("An apple", "fruit"), example(LONG, "firm")], "examples[1].text"),
    ],
)  # fmt: skip
async def test_examples_that_teach_nothing_are_refused_by_field(stubs, given, field):
    request = sense_pb2.FitSensesRequest(examples=given)

    assert field_of(await refused(stubs.senses.FitSenses(request))) == field


async def test_too_many_examples_and_senses_are_refused(serving):
    async with serving(inputs_max=10, senses_max=3) as stubs:
        many = [example(f"Apple number {i}", str(i % 2)) for i in range(11)]
        senses = [example(f"Apple number {i}", str(i)) for i in range(4)]
        for given, limit in ((many, "10"), (senses, "3")):
            error = await refused(stubs.senses.FitSenses(fit_request(*given)))
            assert field_of(error) == "examples"
            info = details(error)[error_details_pb2.ErrorInfo]
            assert (info.reason, info.metadata["limit"]) == ("LIMIT_EXCEEDED", limit)


async def test_long_texts_are_read_as_the_policy_says(stubs, inventory):
    long = "word " * 400 + "She ate a juicy apple"
    windows = common_pb2.TRUNCATION_POLICY_WINDOWS

    read = await stubs.senses.ClassifySenses(asking(inventory, long, truncation=windows))
    cut = asking(inventory, long, truncation=common_pb2.TRUNCATION_POLICY_HEAD)

    assert read.results[0].span.start == 2016
    assert field_of(await refused(stubs.senses.ClassifySenses(cut))) == "inputs[0]"


async def test_a_bad_item_fails_the_call_unless_it_may_fail_alone(stubs, both):
    items = [
        "He bit into an apple",
        "",
        "No such word",
        sense_pb2.SenseInput(text="An apple", word="pear"),
        sense_pb2.SenseInput(text="Two pears", target=at(4, 9)),
        sense_pb2.SenseInput(text="An apple", target=at(3, 90)),
        LONG,
        "Investors like Apple",
    ]

    error = await refused(stubs.senses.ClassifySenses(asking(both, *items)))
    reply = await stubs.senses.ClassifySenses(asking(both, *items, partial_success=True))

    assert field_of(error) == "inputs[1].text"
    assert [bool(result.sense) for result in reply.results] == [True, *[False] * 6, True]
    messages = [result.error.message for result in reply.results]
    assert [message.split(":")[0] for message in messages[1:7]] == [
        "inputs[1].text",
        "inputs[2].text",
        "inputs[3].word",
        "inputs[4].word",
        "inputs[5].target.span",
        "inputs[6].text",
    ]
    assert "'apple', 'bank'" in messages[3]


async def test_an_inventory_of_other_vectors_is_a_failed_precondition(stubs, inventory):
    foreign = sense_pb2.SenseInventory()
    foreign.CopyFrom(inventory)
    foreign.fingerprint.weights_sha256 = foreign.fingerprint.combined = "ab" * 32

    error = await refused(stubs.senses.ClassifySenses(asking(foreign, "An apple")))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    info = details(error)[error_details_pb2.ErrorInfo]
    assert info.reason == "FINGERPRINT_MISMATCH"
    assert info.metadata["differences"] == "weights_sha256"
    assert info.metadata["given"] == "ab" * 32


def nan_weights(inventory):
    word = inventory.words[0]
    weights = np.frombuffer(word.weights.data, "<f4").copy()
    weights[3] = np.nan
    word.weights.data = weights.tobytes()


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda i: i.Clear(), "inventory.words"),
        (nan_weights, "inventory.words[0]"),
        (lambda i: i.words[0].ClearField("senses"), "inventory.words[0]"),
        (lambda i: i.words[0].bias.pop(), "inventory.words[0]"),
        (lambda i: setattr(i.words[0], "temperature", 0), "inventory.words[0]"),
        (lambda i: setattr(i.words[0], "word", ""), "inventory.words[0].word"),
        (lambda i: setattr(i.words[0].senses[1], "name", "firm"), "inventory.words[0]"),
        (lambda i: setattr(i.words[0].senses[1], "name", ""), "inventory.words[0].senses[1].name"),
        (lambda i: i.words.append(i.words[0]), "inventory.words[1].word"),
        (lambda i: setattr(i.words[0].weights, "columns", 5), "inventory.words[0].weights.columns"),
        (lambda i: setattr(i.words[0].weights, "rows", -2), "inventory.words[0].weights.data"),
        (lambda i: setattr(i.words[0].weights, "data", b"1234"), "inventory.words[0].weights.data"),
    ],
)
async def test_an_inventory_that_makes_no_sense_is_refused_by_field(stubs, inventory, spoil, field):
    spoilt = sense_pb2.SenseInventory()
    spoilt.CopyFrom(inventory)
    spoil(spoilt)

    assert field_of(await refused(stubs.senses.ClassifySenses(asking(spoilt, "An apple")))) == field
