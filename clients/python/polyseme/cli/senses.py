"""polyseme senses ..."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from polyseme.cli import session, tables
from polyseme.cli.files import lines_of
from polyseme.cli.session import Exit
from polyseme.cli.texts import LONG, Json, Texts
from polyseme.errors import InvalidRequest
from polyseme.senses import SenseExample, SenseInventory, ToldSense
from polyseme.vectors import Truncation

app = typer.Typer(
    help="Learn the senses of words from a few labelled sentences, and tell them in others.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Inventory = Annotated[Path, typer.Argument(help="file that `senses fit` wrote", dir_okay=False)]

COLUMNS = "word TAB sense TAB sentence"
MARK = re.compile(r"\[\[(.+?)\]\]")
_EXAMPLE = re.compile(r"^examples\[(?P<index>\d+)\]")


class LineInvalid(ValueError):
    """A line that is no labelled sentence; the message names it."""


@app.command()
def fit(
    context: typer.Context,
    *,
    labelled: Annotated[
        Path, typer.Argument(help=f"UTF-8 lines of {COLUMNS}; - for stdin", allow_dash=True)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="where the inventory goes")],
    counted_priors: Annotated[
        bool,
        typer.Option("--counted-priors", help="hold senses for as frequent as their examples are"),
    ] = False,
    truncation: Annotated[Truncation | None, typer.Option(help=LONG)] = None,
    as_json: Json = False,
) -> None:
    """Learn senses from labelled sentences, one a line: word TAB sense TAB sentence.

    One sentence a sense will do, three do much better, ten better still. Names of senses are
    yours; a file may hold several words. The first occurrence of the word counts, case ignored;
    mark another, or an inflected form, [[like this]]. Lines that begin with # are skipped.

    With four examples of a sense or more, each is left out in turn and told by the others: if few
    are told right, the sentences do not show what you see in them. The inventory is a JSON file,
    and yours: the server keeps nothing. It works with servers of the same model alone.

    Example: polyseme senses fit clients/samples/senses.tsv -o senses.json

    Example: printf 'bank\\triver\\tA grassy bank\\nbank\\tmoney\\tThe bank lent it\\n' |
    polyseme senses fit - -o bank.senses
    """
    run = session.of(context, as_json)
    try:
        numbers, examples = read_labelled(_lines(labelled))
    except LineInvalid as error:
        session.fail(f"{labelled}, {error}", Exit.USAGE)
    with run.client() as client:
        try:
            found = client.fit_senses(
                examples, counted_priors=counted_priors, truncation=truncation
            )
        except InvalidRequest as error:
            session.fail(f"{labelled}{_where(error, numbers)}")
    try:
        found.save(out)
    except OSError as error:
        session.fail(str(error))
    run.show_all(found.words, _learnt(found))
    session.say(f"{out}: {len(found.words)} words; next: polyseme senses classify {out} TEXT")


@app.command()
def classify(
    context: typer.Context,
    *,
    inventory: Inventory,
    texts: Texts = None,
    word: Annotated[
        str, typer.Option(help="which of the inventory's words; default: the first that is there")
    ] = "",
    truncation: Annotated[Truncation | None, typer.Option(help=LONG)] = None,
    as_json: Json = False,
) -> None:
    """Which sense a word has in each text.

    The first occurrence of any of the inventory's words counts, case ignored; mark another, or an
    inflected form, [[like this]]. The margin says how far the first sense is ahead of the second.

    A text without such a word is reported, and the others are told: exit status 4.

    Example: polyseme senses classify senses.json "Apple fell 3 % after the keynote"

    Example: polyseme senses classify senses.json "The [[banks]] of the Nile" --word bank

    Example: polyseme senses classify senses.json --json < lines.txt
    """
    run = session.of(context, as_json)
    known = _loaded(inventory)
    marked = [unmarked(text) for text in session.texts_or_stdin(texts)]
    with run.client() as client:
        told = client.classify_senses(
            known,
            [text for text, _ in marked],
            [place for _, place in marked],
            word=word,
            partial=True,
            truncation=truncation,
        )
    good = [each for each in told if each.error is None]
    run.show_all((_as_json(each) for each in good), _told(good))
    for number, each in enumerate(told, start=1):
        if each.error is not None:
            session.say(f"text {number} skipped: {each.error}")
    if len(good) < len(told):
        raise typer.Exit(Exit.SKIPPED if good else Exit.FAILED)


@app.command()
def show(context: typer.Context, *, inventory: Inventory, as_json: Json = False) -> None:
    """What an inventory knows: words, senses, examples. Asks no server.

    Example: polyseme senses show senses.json
    """
    run = session.of(context, as_json)
    known = _loaded(inventory)
    run.show_all(known.words, _learnt(known))


# ---- reading


def read_labelled(lines: Iterable[str]) -> tuple[list[int], list[SenseExample]]:
    """The examples, and the number of each one's line, from 1. Raises LineInvalid."""
    numbers, examples = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 3 or not all(cells):
            problem = f"line {number}: {len(cells)} columns, some of them empty"
            problem = f"line {number}: {len(cells)} columns" if all(cells) else problem
            raise LineInvalid(f"{problem}; wanted: {COLUMNS}")
        word, sense, sentence = cells
        text, place = unmarked(sentence)
        examples.append(SenseExample(text, sense, word, place))
        numbers.append(number)
    if not examples:
        raise LineInvalid(f"no line of it is an example; wanted: {COLUMNS}")
    return numbers, examples


def unmarked(text: str) -> tuple[str, slice | None]:
    """The text without its first [[mark]], and where the marked word then stands."""
    match = MARK.search(text)
    if match is None:
        return text, None
    word = match.group(1)
    plain = text[: match.start()] + word + text[match.end() :]
    return plain, slice(match.start(), match.start() + len(word))


def _lines(file: Path) -> list[str]:
    try:
        if str(file) == "-":
            return session.stdin_lines()
        return lines_of(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        session.fail(f"{file}: {error}", Exit.USAGE)


def _loaded(file: Path) -> SenseInventory:
    try:
        return SenseInventory.load(file)
    except (OSError, ValueError) as error:
        session.fail(f"{file}: {error}", Exit.USAGE)


def _where(error: InvalidRequest, numbers: Sequence[int]) -> str:
    """The server's complaint by the file's lines: it counts examples, from 0."""
    told = []
    for violation in error.violations:
        match = _EXAMPLE.match(violation.field)
        line = f", line {numbers[int(match['index'])]}" if match else ""
        told.append(f"{line}: {violation.problem}")
    return "; ".join(told) or f": {error}"


# ---- showing


def _learnt(inventory: SenseInventory) -> Table:
    table = tables.table(
        "word", "sense", "examples", "told right when left out", right=["examples"]
    )
    for word in inventory.words:
        check = (
            f"{word.checked_right} of {word.checked}"
            if word.calibrated
            else "too few examples to say"
        )
        for number, sense in enumerate(word.senses):
            first = number == 0
            table.add_row(
                Text(word.word if first else ""),
                Text(sense.name),
                str(sense.examples),
                check if first else "",
            )
    return table


def _told(told: Sequence[ToldSense]) -> Group:
    table = tables.table("sense", "probability", "margin", "text", right=["probability", "margin"])
    for each in told:
        text = Text(tables.visible(each.text))
        if each.span is not None:
            text.stylize("bold", each.span.start, each.span.end)
        table.add_row(
            Text(each.sense), f"{each.probabilities[each.sense]:.1%}", f"{each.margin:.2f}", text
        )
    return Group(table)


def _as_json(told: ToldSense) -> dict[str, object]:
    return {
        "text": told.text,
        "word": told.word,
        "span": told.span,
        "sense": told.sense,
        "probabilities": told.probabilities,
        "margin": told.margin,
    }
