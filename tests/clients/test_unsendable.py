"""What no message can carry is refused by name, before it is sent."""

import pytest

from polyseme import Client, InvalidRequest, Like, OwnVectors, WordIn, field

LONE = "a\ud800"
TOO_BIG = 99999999999


@pytest.fixture
def client():
    with Client("127.0.0.1:1") as client:  # nobody there: nothing is sent
        yield client


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda c: c.create_collection(LONE), "name"),
        (lambda c: c.create_collection("c", description=LONE), "description"),
        (
            lambda c: c.create_collection("c", vectors=OwnVectors(dimensions=TOO_BIG)),
            "vectors.dimensions",
        ),
        (lambda c: c.get_collection(LONE), "name"),
        (lambda c: c.update_collection("c", etag=LONE), "etag"),
        (lambda c: c.delete_collection(LONE), "name"),
        (lambda c: c.restore_snapshot(LONE, "c"), "snapshot"),
        (lambda c: c.check_collection(LONE), "name"),
        (lambda c: list(c.list_collections(page_size=TOO_BIG)), "page_size"),
        (lambda c: c.upsert(LONE, []), "collection"),
        (lambda c: c.write(LONE, []), "collection"),
        (lambda c: c.get("c", LONE), "id"),
        (lambda c: c.get_many("c", ["a", LONE]), "ids[1]"),
        (lambda c: c.delete("c", ["a", LONE]), "ids[1]"),
        (lambda c: list(c.documents(LONE)), "collection"),
        (lambda c: list(c.export(LONE)), "name"),
        (lambda c: c.count("c", filter=field("f") == LONE), "filter.f"),
        (lambda c: c.search(LONE, "q"), "collection"),
        (lambda c: c.search("c", Like(LONE)), "query.id"),
        (lambda c: c.search("c", WordIn("t", LONE)), "query.target"),
        (lambda c: c.search("c", "q", lexical_text=LONE), "lexical_text"),
        (lambda c: c.search("c", "q", translate_to=LONE), "translate_to"),
        (lambda c: c.search("c", "q", min_sequence=2**63), "min_sequence"),
        (lambda c: c.words("t", LONE), "targets[0][0]"),
        (lambda c: c.words("t", [(LONE, 1)]), "targets[0][0]"),
        (lambda c: c.compare(LONE, ["a", "b"]), "word"),
        (lambda c: c.compare("a", ["a", "b"], senses=["s", LONE]), "senses[1]"),
        (lambda c: c.fit_senses([("a", "b")], word=LONE), "examples[0].word"),
        (lambda c: c.embed(["t"], prompt=LONE), "prompt"),
        (lambda c: c.embed(["t"], dimensions=TOO_BIG), "dimensions"),
        (lambda c: c.attention("t", layers=[1, TOO_BIG]), "layers[1]"),
        (lambda c: c.fill_mask(["t"], mask=LONE), "mask"),
        (lambda c: c.fill_mask(["t"], k=TOO_BIG), "k"),
        (lambda c: c.substitute("t", LONE), "target"),
        (lambda c: c.translate(["t"], LONE), "to"),
        (lambda c: c.translate(["t"], "en", beams=TOO_BIG), "beams"),
        (lambda c: c.health(LONE), "service"),
    ],
)
def test_it_is_named(client, call, named):
    with pytest.raises(InvalidRequest) as refused:
        call(client)

    assert [violation.field for violation in refused.value.violations] == [named]
    assert not refused.value.failure.sent
