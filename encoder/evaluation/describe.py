"""Writes what a model of our own is made of on its card: head, use, data, training, limits."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from encoder.evaluation.card import CARD, with_section, write_files
from encoder.evaluation.head import MARK, Value, split, with_head
from encoder.evaluation.provenance import Stage, Text
from encoder.manifest import Manifest, read_manifest
from encoder.training.progress import duration
from encoder.training.recipe import Evaluation, Recipe

BEGIN = "<!-- polyseme-model card: what stands up to the end mark is written by this command -->"
END = "<!-- polyseme-model card: end -->"
WEIGHTS = "model.safetensors"  # as checkpoint.WEIGHTS, which imports torch
LANGUAGES = {"en": "English", "de": "German", "fr": "French"}
TAGS = ("sentence-transformers", "feature-extraction", "sentence-similarity", "fill-mask")
MORE_TAGS = ("modernbert", "word-sense-disambiguation", "onnx", "polyseme")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a card is written from, beside the model directory.

    teacher:  the hub's name of the sentence encoder that was learnt from; empty for none
    watts:    stated, of the whole machine, for runs without a measurement
    pictures: SVG curves, one for each of `stages` that has one
    """

    recipe: Recipe
    texts: Sequence[Text]
    stages: Sequence[Stage]
    pictures: Sequence[str | None]
    teacher: str
    licence: str
    hardware: str
    watts: float


def describe(directory: Path, facts: Facts) -> list[Path]:
    """Write head and sections into the directory's card, beside an evaluation that is there.

    Raises CardDamaged, HeadDamaged before anything is written.
    """
    manifest = read_manifest(directory)
    card = directory / CARD
    before = with_place(card.read_text("utf-8") if card.is_file() else "", manifest.name)
    body = with_section(before, sections(directory, manifest, facts), card, (BEGIN, END))
    files = {card: with_head(body.lstrip("\n"), head(facts))}
    for number, picture in enumerate(facts.pictures):
        if picture is not None:
            files[directory / _picture(number)] = picture
    write_files(directory, files)
    return list(files)


def with_place(card: str, name: str) -> str:
    """`card` with marks for this command's part, which has the title: behind the head, before all
    else. What `evaluate` wrote into an empty card has a bare title of its own, which goes."""
    if BEGIN in card or END in card:
        return card
    lines, body = split(card)
    body = body.lstrip("\n").removeprefix(f"# {name}\n").lstrip("\n")
    head_lines = [MARK, *lines, MARK, ""] if lines else []
    return "\n".join([*head_lines, BEGIN, END, "", body])


def head(facts: Facts) -> dict[str, Value]:
    """The keys of the card's head that this command owns."""
    values: dict[str, Value] = {
        "language": _languages(facts.texts),
        "license": facts.licence,
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": [*TAGS, *MORE_TAGS],
        "datasets": list(dict.fromkeys(text.name for text in facts.texts)),
    }
    return values | ({"base_model": [facts.teacher]} if facts.teacher else {})


def _languages(texts: Sequence[Text]) -> list[str]:
    found = (code for text in texts for code in text.language.split("-") if code)
    return list(dict.fromkeys(found))


def sections(directory: Path, manifest: Manifest, facts: Facts) -> str:
    """The card's part, without the marks."""
    return "\n".join(
        [
            f"# {manifest.name}",
            "",
            _what(directory, manifest, facts),
            "",
            *("## Use", "", _use(manifest), ""),
            *("## Data", "", _data(facts), ""),
            *("## Training", "", _training(facts), ""),
            *("## Limits", "", _limits(manifest, facts)),
        ]
    )


def _what(directory: Path, manifest: Manifest, facts: Facts) -> str:
    names = [LANGUAGES.get(code, code) for code in _languages(facts.texts)]
    cuts = ", ".join(str(d) for d in manifest.dimensions_choices if d != manifest.width)
    return (
        f"An encoder for {' and '.join(filter(None, [', '.join(names[:-1]), *names[-1:]]))}, with "
        f"{parameters(directory) / 1e6:.1f} million parameters: {manifest.layers} layers of "
        f"{manifest.states_width} values in ModernBERT's layout, {manifest.vocab_size:,} tokens, "
        f"texts of up to {manifest.tokens_max} tokens. It gives sentence vectors of "
        f"{manifest.width} values{f' (which may be cut to {cuts})' if cuts else ''}, vectors of "
        "words in their context, and guesses of masked words."
        + (
            f" Its sentence vectors were learnt from those of {facts.teacher}."
            * bool(facts.teacher)
        )
    )


def parameters(directory: Path) -> int:
    """How many numbers `model.safetensors` holds; the head names their shapes."""
    with (directory / WEIGHTS).open("rb") as file:
        tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(t["shape"]) for name, t in tensors.items() if name != "__metadata__")


def _use(manifest: Manifest) -> str:
    return "\n".join(
        [
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            f'vectors = SentenceTransformer("{manifest.name}").encode(["Apple was juicy"])',
            "```",
            "",
            "or, over gRPC, with `polyseme-server serve --model DIR`, from the ONNX graphs in "
            "`onnx/`.",
        ]
    )


def _data(facts: Facts) -> str:
    lines = [
        "| text | language | for | licence | read |",
        "|---|---|---|---|---:|",
        *(
            f"| {text.path} | {text.language} | {text.use} | {text.licence} | {text.weight:g} |"
            for text in facts.texts
        ),
        "",
        "Read: how often, against a text of 1.",
    ]
    rules = [_rule(rule) for rule in facts.recipe.evaluation]
    if rules:
        lines += ["", "Left out, wherever they occurred, were the lines of these test sets:", ""]
        lines += [f"- {rule}" for rule in rules]
    return "\n".join(lines)


def _rule(rule: Evaluation) -> str:
    found = "equal lines"
    if rule.ngram_words:
        found += f" and lines with {rule.ngram_words} words in a row of theirs"
    return f"{', '.join(f'`{path}`' for path in rule.paths)}: {found}"


def _training(facts: Facts) -> str:
    lines = ["| stage | steps | tokens | time | energy |", "|---|---:|---:|---:|---:|"]
    for stage in facts.stages:
        tokens = f"{stage.tokens / 1e6:,.0f} M" if stage.tokens else "–"
        lines.append(
            f"| {stage.title} | {stage.steps:,} | {tokens} | "
            f"{_time(stage)} | {_energy(stage, facts.watts)} |"
        )
    lines += ["", f"On {facts.hardware}. {_of_energy(facts)}"]
    for number, (stage, picture) in enumerate(zip(facts.stages, facts.pictures, strict=True)):
        if picture is not None:
            lines += ["", f"![Curves of {stage.title}]({_picture(number)})"]
    return "\n".join(lines)


def _time(stage: Stage) -> str:
    return duration(stage.seconds) if stage.seconds else "not recorded"


def _energy(stage: Stage, watts: float) -> str:
    return f"{stage.kilowatt_hours(watts):.2g} kWh" if stage.seconds else "–"


def _of_energy(facts: Facts) -> str:
    if all(stage.watts is not None for stage in facts.stages):
        return "Energy is the measured time and the mean of the measured power of the GPU alone."
    return (
        f"Energy is an estimate: the measured time and a stated {facts.watts:g} W, not a "
        "measurement."
    )


def _limits(manifest: Manifest, facts: Facts) -> str:
    names = ", ".join(LANGUAGES.get(code, code) for code in _languages(facts.texts))
    kinds = sorted({re.sub(r"-(en|de|fr)$", "", t.name) for t in facts.texts if t.use == "text"})
    lines = [
        f"Its languages are {names}; of others it has seen crumbs.",
        f"It reads {manifest.tokens_max} tokens at most; longer texts must be cut or windowed.",
        f"It knows what its texts speak of ({', '.join(kinds)}), up to their dates. What they "
        "say wrongly or unfairly it has learnt with the rest.",
        "Test sets were filtered out by equal lines and runs of words, as listed above; "
        "paraphrases and translations of them may remain.",
        "Vectors of different models, precisions or fingerprints are not comparable.",
    ]
    if facts.teacher:
        lines.append(
            f"Its English sentence vectors imitate {facts.teacher}, with that model's faults."
        )
    return "\n".join(f"- {line}" for line in lines)


def _picture(number: int) -> str:
    return f"training-{number + 1}.svg"
