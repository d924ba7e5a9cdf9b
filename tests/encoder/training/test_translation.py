"""A translator of a toy language: it learns, goes on after a kill, and leaves the trunk alone."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import tokenizers
import torch

from encoder.checkpoint import load_sentence_encoder, save_directory
from encoder.config import EncoderConfig, Pooling
from encoder.model import MaskedLanguageModel, SentenceEncoder
from encoder.training.checkpoints import CheckpointRefused
from encoder.training.corpus import CorpusInvalid
from encoder.training.curves import read_curves
from encoder.training.recipe import (
    Evaluation,
    Recipe,
    RecipeInvalid,
    Translation,
    TranslationAligned,
    TranslationPairs,
    TranslationStage,
)
from encoder.training.translation import TranslationTraining, rate_share
from encoder.training.translation_pairs import joined, load_pairs
from encoder.training.translation_run import TranslationRun, TranslationSettings
from encoder.training.vocabulary import SPECIAL_TOKENS, train_vocabulary
from encoder.translation_config import read_translation_config
from encoder.translator import greedy, load_translator

CPU = torch.device("cpu")
WORDS = {
    "red": ("rot", "rouge"), "dog": ("Hund", "chien"), "sees": ("sieht", "voit"),
    "big": ("gross", "grand"), "house": ("Haus", "maison"), "man": ("Mann", "homme"),
    "eats": ("isst", "mange"), "apple": ("Apfel", "pomme"),
}  # fmt: skip
RULES = Translation(
    layers=1, inner_width=64, heads=4, own_layers=1, tokens_max=24, decoder_tokens_max=48,
    step_tokens=512, micro_tokens=256, dropout=0.0, merge_dropout=0.05, average_share=0.5,
    pairs=(
        TranslationPairs(path="talk/en-de.tsv", language="en-de", group="talk"),
        TranslationPairs(path="talk/en-fr.tsv", language="en-fr", group="talk", weight=2.0),
    ),
    aligned=(
        TranslationAligned(paths=("lines/a.de", "lines/a.fr"), language="de-fr"),
    ),
    joined=("talk",),
    stages=(
        TranslationStage(steps=6, rate=5e-3, matrix_rate=5e-3),
        TranslationStage(
            steps=6, rate=5e-3, matrix_rate=5e-3, encoder_share=0.2, weights={"lines": 0.5}
        ),
    ),
)  # fmt: skip


def english(count, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(sorted(WORDS), k=rng.randint(2, 5))) for _ in range(count)]


def other(text, language):
    return " ".join(WORDS[word][("de", "fr").index(language)] for word in text.split(" "))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name in ("talk", "lines", "tests"):
        (folder / name).mkdir()
    lines = list(dict.fromkeys(english(500, 1)))
    for language in ("de", "fr"):
        rows = [f"{line}\t{other(line, language)}" for line in lines]
        (folder / "talk" / f"en-{language}.tsv").write_text("\n".join(rows))
        rows = [other(line, language) for line in english(150, 2)]
        (folder / "lines" / f"a.{language}").write_text("\n".join(rows))
    (folder / "tests" / "test.en").write_text("\n".join([lines[7], lines[8]]))
    return folder


@pytest.fixture(scope="module")
def base(text, tmp_path_factory):
    """An untrained model directory with a tokenizer of the toy languages."""
    folder = tmp_path_factory.mktemp("base")
    lines = [line for file in sorted(text.rglob("*.tsv")) for line in file.read_text().split("\n")]
    tokenizer = train_vocabulary(lines, 420, progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(1)
    model = MaskedLanguageModel(
        EncoderConfig(
            vocab_size=tokenizer.get_vocab_size(), width=64, layers=2, heads=4, inner_width=64,
            tokens_max=64, rope_theta_global=10_000.0, initializer_range=0.1,
        )
    )  # fmt: skip
    torch.nn.init.normal_(model.bias)
    save_directory(
        folder / "model",
        SentenceEncoder(model.encoder, Pooling.MEAN),
        tokenizer=folder / "tokenizer.json",
        language_model=model,
        special_tokens=SPECIAL_TOKENS,
    )
    return folder / "model"


@pytest.fixture
def settings(base, text, tmp_path, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "translation-cache"
    return TranslationSettings(base=base, text=text, out=tmp_path / "run", cache=cache, device=CPU)


def recipe_with(**changes):
    return Recipe(name="toy", seed=5, translation=RULES.model_copy(update=changes))


def bits(out):
    training = torch.load(out / "checkpoint.pt", weights_only=True)["training"]
    return [*training["own"].values(), *training["average"]]


def pairs_of(text, recipe, base, cache):
    tokenizer = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    return load_pairs(text, recipe, cache, tokenizer)


def test_pairs_are_read_cleaned_and_joined_through_english(text, base, tmp_path):
    rule = Evaluation(paths=("tests/test.en",))
    recipe = recipe_with().model_copy(update={"evaluation": (rule,)})

    files = pairs_of(text, recipe, base, tmp_path)

    assert [(file.languages, file.group, file.weight) for file in files] == [
        (("en", "de"), "talk", 1.0),
        (("en", "fr"), "talk", 2.0),
        (("de", "fr"), "lines", 1.0),
        (("de", "fr"), "talk", 1.0),
    ]
    forbidden = (text / "tests" / "test.en").read_text().split("\n")
    for file in files[:2]:
        assert not {*forbidden} & {*file.firsts}
        assert len(file) > 200
        for one, two in zip(file.firsts, file.seconds, strict=True):
            assert two == other(one, file.languages[1])
    german = {other(line, "de") for line in files[0].firsts}
    assert {*files[3].firsts} <= german
    assert len(files[3]) > 100


def test_texts_that_are_too_long_are_left_out_and_lengths_are_those_of_the_tokenizer(
    text, base, tmp_path
):
    files = pairs_of(text, recipe_with(tokens_max=6), base, tmp_path)

    tokenizer = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    for file in files:
        assert 0 < file.lengths.max() <= 6
        assert [len(tokenizer.encode(text).ids) for text in file.seconds] == [*file.lengths[:, 1]]
    with pytest.raises(CorpusInvalid, match="no pair of texts within 2 tokens"):
        pairs_of(text, recipe_with(tokens_max=2), base, tmp_path)


def test_joining_uses_each_text_once(text, base, tmp_path):
    one, two = pairs_of(text, recipe_with(joined=()), base, tmp_path)[:2]
    twice = replace(one, firsts=["a", "a"], seconds=["A1", "A2"])
    thrice = replace(two, firsts=["a", "b", "a"], seconds=["x", "y", "z"])

    (found,) = joined([twice, thrice])

    assert list(zip(found.firsts, found.seconds, strict=True)) == [("A1", "x"), ("A2", "z")]


def test_a_pair_without_two_languages_is_refused(text, base, tmp_path):
    wrong = TranslationPairs(path="talk/en-de.tsv", language="en")
    with pytest.raises(CorpusInvalid, match=r"talk/en-de\.tsv: language is 'en'"):
        pairs_of(text, recipe_with(pairs=(wrong,)), base, tmp_path)


def test_the_rate_warms_up_and_falls_to_its_last_share():
    stage = TranslationStage(steps=100, warm_up_share=0.1, decay_share=0.5, rate_last=0.2)

    shares = [rate_share(stage, step) for step in range(100)]

    assert shares[0] == pytest.approx(0.05)
    assert shares[10:50] == [1.0] * 40
    assert shares[99] == pytest.approx(0.2, abs=0.01)
    assert shares[50:] == sorted(shares[50:], reverse=True)


def test_a_run_leaves_the_model_around_it_as_it_was(settings, base):
    model = TranslationRun(recipe_with(), settings).train()

    assert (model / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    config = read_translation_config(model / "translation")
    assert config.shared_layers == 1
    assert config.pairs == (
        ("de", "en"), ("de", "fr"), ("en", "de"), ("en", "fr"), ("fr", "de"), ("fr", "en"),
    )  # fmt: skip
    ours = load_translator(model).encoder.state_dict()
    theirs = load_sentence_encoder(base).encoder.state_dict()
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed
    assert all(name.startswith(("layers.1.", "final_norm.")) for name in changed)


def test_a_frozen_encoder_is_not_touched_and_a_table_can_be_shared(settings, base):
    stages = RULES.stages[:1]
    model = TranslationRun(recipe_with(stages=stages, own_table=False), settings).train()

    ours = load_translator(model)
    theirs = load_sentence_encoder(base).encoder.state_dict()
    for name, value in ours.encoder.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert ours.decoder.embeddings.word.weight is not None
    assert torch.equal(ours.decoder.embeddings.word.weight, theirs["embeddings.word.weight"])


def test_a_run_leaves_its_curves_as_data_and_as_a_picture(settings):
    TranslationRun(recipe_with(), settings).train()

    lines = read_curves(settings.out / "curves.jsonl")
    assert set(lines[-1]["held_out"]) >= {"en-de", "de-en", "fr-en"}
    assert lines[-2]["loss"] > 0
    assert "<polyline" in (settings.out / "curves.svg").read_text()


def test_a_run_is_not_begun_over_another_and_not_resumed_with_another_recipe(settings):
    TranslationRun(recipe_with(), settings).train()

    with pytest.raises(CheckpointRefused, match="exists: add --resume"):
        TranslationRun(recipe_with(), settings).train()
    with pytest.raises(CheckpointRefused, match="belongs to another recipe"):
        TranslationRun(recipe_with(dropout=0.3), replace(settings, resume=True)).train()


def test_a_run_goes_on_from_a_translator_and_replaces_it_in_its_own_directory(settings, tmp_path):
    first = TranslationRun(recipe_with(), settings).train()
    before = load_translator(first).state_dict()
    (first / "translation" / "old").write_text("of the first translator alone")

    run = TranslationRun(recipe_with(), replace(settings, base=first, out=tmp_path / "second"))
    for name, value in run.training.model.state_dict().items():
        torch.testing.assert_close(value, before[name])
    second = run.train()

    after = load_translator(second).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    assert not (second / "translation" / "old").exists()
    assert (first / "translation" / "old").exists()


def test_a_translator_of_another_shape_is_refused(settings):
    first = TranslationRun(recipe_with(), settings).train()

    with pytest.raises(RecipeInvalid, match="another shape"):
        TranslationRun(recipe_with(layers=3), replace(settings, base=first))


@pytest.mark.parametrize("stop", [1, 6, 11])
def test_a_run_that_goes_on_ends_with_the_same_bits(settings, tmp_path, stop):
    rules = {"dropout": 0.2, "merge_dropout": 0.2}
    TranslationRun(recipe_with(**rules), settings).train()
    run = TranslationRun(recipe_with(**rules), replace(settings, out=tmp_path / "other"))
    (tmp_path / "other").mkdir()
    for _ in range(stop):
        run.training.train()
    run._save()

    resumed = replace(settings, out=tmp_path / "other", resume=True)
    TranslationRun(recipe_with(**rules), resumed).train()

    found, expected = bits(tmp_path / "other"), bits(settings.out)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_rehearsal_says_time_and_memory_and_leaves_no_run(settings):
    said = []

    TranslationRun(recipe_with(), settings).rehearse(said.append)

    text = "\n".join(said)
    assert "stage 2: 6 steps" in text
    assert "encoder frozen" in text
    assert "whole run" in text
    assert not settings.out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"own_layers": 3}, "own_layers 3 of an encoder of 2"),
        ({"pairs": (TranslationPairs(path="talk/en-de.tsv", language="en-xx"),)}, "no token"),
    ],
)
def test_what_the_base_cannot_do_is_refused(settings, changes, message):
    with pytest.raises(RecipeInvalid, match=message):
        TranslationRun(recipe_with(**changes, aligned=(), joined=()), settings)


def test_losses_do_not_depend_on_how_a_step_is_taken_apart(settings, base, text, tmp_path):
    tokenizer = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    files = load_pairs(text, recipe_with(), settings.cache, tokenizer)

    def first_steps(micro_tokens):
        recipe = recipe_with(micro_tokens=micro_tokens)
        training = TranslationTraining(recipe, base, files, tokenizer, device=CPU)
        return [training.train().loss for _ in range(3)]

    assert first_steps(100) == pytest.approx(first_steps(10_000), rel=1e-4)


@pytest.fixture
def begun(settings, base, text):
    """Makes a training that has not taken a step."""
    tokenizer = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    files = load_pairs(text, recipe_with(), settings.cache, tokenizer)

    def make(changes=None, **options):
        recipe = recipe_with(**(changes or {}))
        return TranslationTraining(recipe, base, files, tokenizer, device=CPU, **options)

    return make


def test_held_out_losses_do_not_depend_on_which_texts_are_judged_together(begun):
    alone = begun({"micro_tokens": 1}).evaluate()

    assert set(alone) >= {"en-de", "de-en", "fr-en"}
    assert begun({"micro_tokens": 10_000}).evaluate() == pytest.approx(alone, rel=1e-4)


def test_a_long_held_out_text_does_not_make_padding_of_all_others(begun, monkeypatch):
    training = begun()
    training._held_out = {("en", "de"): [("dog", "Hund")] * 30 + [("dog " * 12, "Hund " * 12)]}
    sizes = []
    losses = training._losses

    def watched(batch, smoothing):
        sizes.append((batch.source.size + batch.given.size, batch.tokens))
        return losses(batch, smoothing)

    monkeypatch.setattr(training, "_losses", watched)
    training.evaluate()

    computed, tokens = map(sum, zip(*sizes, strict=True))
    assert computed == tokens


def test_a_direction_whose_held_out_texts_are_all_too_long_is_not_judged(begun):
    training = begun()
    training._held_out = {
        ("de", "en"): [("Hund", "dog")],
        ("en", "de"): [("dog " * 200, "Hund " * 200)],
    }

    assert set(training.evaluate()) == {"de-en"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of what torch itself does
def test_compiled_layers_have_the_losses_of_plain_ones_and_few_graphs(begun):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    plain, compiled = begun(), begun(compiled=True)

    expected = [plain.train().loss for _ in range(12)]  # both stages, twelve shapes
    found = [compiled.train().loss for _ in range(12)]

    assert found == pytest.approx(expected, rel=1e-3)
    # Encoder: the first layer, the second frozen and learning. Decoder: its only layer. And again,
    # where two lengths were equal at first, by chance.
    graphs = counters["stats"]["unique_graphs"]
    assert graphs <= 12
    assert compiled.evaluate() == pytest.approx(plain.evaluate(), rel=1e-2)
    assert counters["stats"]["unique_graphs"] == graphs  # it compiled nothing
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_translator_learns_a_toy_language_in_both_directions(settings):
    stages = (TranslationStage(steps=400, rate=5e-3, matrix_rate=1e-2, encoder_share=1.0),)
    recipe = recipe_with(stages=stages, own_layers=2, step_tokens=768, average_share=0.1)
    directory = TranslationRun(recipe, settings).train()

    model = load_translator(directory)
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    right = []
    for line in english(30, 77):
        for source, target, language in (
            (line, other(line, "de"), "de"),
            (other(line, "fr"), line, "en"),
            (other(line, "de"), other(line, "fr"), "fr"),
        ):
            ids = torch.tensor([tokenizer.encode(source).ids])
            begin = model.config.begin_ids[language]
            (written,) = greedy(model, ids, torch.ones_like(ids).bool(), [begin], tokens_max=40)
            right.append(tokenizer.decode(written.ids) == target)
    # Whole sentences, after half a minute of training: guessing gets none of them.
    assert sum(right) / len(right) > 0.6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_command_goes_on_to_the_same_bits(settings, tmp_path):
    rules = recipe_with(stages=(TranslationStage(steps=40), TranslationStage(steps=40)))
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(rules))
    command = [
        sys.executable, "-m", "encoder.command", "train-translation", "--weights", settings.base,
        "--text", settings.text, "--recipe", file, "--cache", settings.cache, "--threads", "1",
        "--precision", "fp32", "--checkpoint-s", "0.05",
    ]  # fmt: skip
    subprocess.run([*command, "--out", tmp_path / "straight"], check=True)

    out = tmp_path / "killed"
    for _ in range(2):
        resume = ["--resume"] if (out / "checkpoint.pt").exists() else []
        with subprocess.Popen([*command, "--out", out, *resume]) as process:
            seen = saves(out)
            while process.poll() is None and saves(out) == seen:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
    subprocess.run([*command, "--out", out, "--resume"], check=True)

    found, expected = bits(out), bits(tmp_path / "straight")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def saves(out):
    file = out / "checkpoint.pt"
    return file.stat().st_mtime_ns if file.exists() else 0


def to_toml(recipe):
    """Enough of TOML for these recipes: tables within tables, no tables within lists of lists."""
    import json

    def value(item):
        if isinstance(item, dict):
            inside = ", ".join(f"{json.dumps(k)} = {value(v)}" for k, v in item.items())
            return "{" + inside + "}"
        if isinstance(item, list):
            return "[" + ", ".join(map(value, item)) + "]"
        return json.dumps(item)

    content = recipe.model_dump(mode="json", exclude_defaults=True)
    return "\n".join(f"{key} = {value(item)}" for key, item in content.items())
