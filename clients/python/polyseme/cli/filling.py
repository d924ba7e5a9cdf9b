"""polyseme fill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from polyseme.cli import session, tables
from polyseme.cli.texts import Json
from polyseme.filling import MASK, Filled, Guess, Substitutes

BAR_COLUMNS = 30


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(fill)


def fill(
    context: typer.Context,
    *,
    text: Annotated[str, typer.Argument(help="a text with [MASK] wherever a token is wanted")],
    mask: Annotated[str, typer.Option(help="what marks a mask")] = MASK,
    word: Annotated[
        str | None, typer.Option(help="hide this word of the text: what could stand there instead?")
    ] = None,
    k: Annotated[
        int, typer.Option("--k", "-k", min=0, help="guesses; 0: five, or all candidates")
    ] = 0,
    candidates: Annotated[
        str | None, typer.Option(help="choose among these alone, comma-separated")
    ] = None,
    as_json: Json = False,
) -> None:
    """What could stand at each mask of a text, most probable first.

    A mask stands for one token of the model. With --word no mask is needed: the word is hidden,
    and the guesses fit its place; they need not mean the same.

    Example: polyseme fill "She ate a juicy [MASK]." -k 10

    Example: polyseme fill "Apple stock crashed today" --word Apple

    Example: polyseme fill "The [MASK] was ripe." --candidates apple,phone --json
    """
    run = session.of(context, as_json)
    among = [] if candidates is None else [each.strip() for each in candidates.split(",")]
    with run.client() as client:
        if word is None:
            (filled,) = client.fill_mask([text], mask=mask, k=k, candidates=among)
            run.show(filled, _filled(filled))
        else:
            found = client.substitute(text, word, k=k, candidates=among)
            run.show(found, _substitutes(text, found))


def _filled(filled: Filled) -> Group:
    parts: list[RenderableType] = []
    for mask in filled.masks:
        shown = Text(tables.visible(filled.text))
        shown.stylize("bold reverse", mask.span.start, mask.span.end)
        parts += [shown, _guesses(mask.guesses), Text("")]
    parts.append(Text(filled.best(), style="bold"))
    return Group(*parts)


def _substitutes(text: str, found: Substitutes) -> Group:
    shown = Text(tables.visible(text))
    shown.stylize("bold reverse", found.span.start, found.span.end)
    itself = (
        f"{found.word!r} is more than one token"
        if found.itself is None
        else f"{found.word!r} itself: {found.itself.probability:.1%}"
    )
    return Group(shown, _guesses(found.guesses), Text(itself, style="dim"))


def _guesses(guesses: Sequence[Guess]) -> Table:
    table = tables.table("guess", "probability", "", right=["probability"])
    for guess in guesses:
        bar = "█" * round(BAR_COLUMNS * guess.probability)
        table.add_row(
            Text(guess.token if guess.token.startswith("##") else guess.text),
            f"{guess.probability:.1%}",
            Text(bar, style="dodger_blue3"),
        )
    return table
