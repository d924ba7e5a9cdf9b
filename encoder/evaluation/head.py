"""The YAML head of a model card: keys are set, and every line of the other keys stays as it is.

Written without a YAML library, which serving machines lack; read by Hugging Face's.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Value: TypeAlias = "str | int | float | bool | Sequence[Value] | Mapping[str, Value]"

MARK = "---"
_KEY = re.compile(r"([A-Za-z_][\w.-]*):(\s|$)")
_PLAIN = re.compile(r"[A-Za-z][\w./+()-]*( [\w./+()-]+)*")
# What YAML 1.1 reads as something other than a string.
_RESERVED = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}


class HeadDamaged(ValueError):
    """A card begins a head and does not end it, or a line of it belongs to no key."""


def with_head(card: str, values: Mapping[str, Value]) -> str:
    """`card` with the keys of `values` set in its head, which it gets if it has none.

    A key that is there keeps its place; new ones follow. Raises HeadDamaged.
    """
    lines, body = split(card)
    blocks = _blocks(lines)
    for key, value in values.items():
        blocks[key] = emit({key: value})
    head = [line for block in blocks.values() for line in block]
    return "\n".join([MARK, *head, MARK, ""]) + body


def split(card: str) -> tuple[list[str], str]:
    """The head's lines without the marks, and what follows. Raises HeadDamaged."""
    lines = card.split("\n")
    if lines[0].rstrip() != MARK:
        return [], card
    ends = [number for number, line in enumerate(lines[1:], 1) if line.rstrip() == MARK]
    if not ends:
        raise HeadDamaged(f"the card's head begins with {MARK} and never ends")
    return lines[1 : ends[0]], "\n".join(lines[ends[0] + 1 :])


def _blocks(lines: Sequence[str]) -> dict[str, list[str]]:
    """Lines by the key they belong to; comments before the first key under ""."""
    blocks: dict[str, list[str]] = {}
    key = ""
    for line in lines:
        found = _KEY.match(line)
        if found:
            key = found.group(1)
        elif not key and line.strip() and not line.startswith("#"):
            raise HeadDamaged(f"line {line!r} of the card's head belongs to no key")
        blocks.setdefault(key, []).append(line)
    return blocks


def emit(value: Value, indent: int = 0) -> list[str]:
    """`value`, a mapping or a sequence, as lines of YAML in block style."""
    space = "  " * indent
    if isinstance(value, Mapping):
        return [
            line for key, part in value.items() for line in _entry(f"{space}{key}:", part, indent)
        ]
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{value!r} has no parts")
    lines: list[str] = []
    for part in value:
        if _is_scalar(part) or not part:
            lines.append(f"{space}- {_inline(part)}")
        else:
            first, *rest = emit(part, indent + 1)
            lines += [f"{space}- {first.strip()}", *rest]
    return lines


def _entry(head: str, value: Value, indent: int) -> list[str]:
    if _is_scalar(value) or not value:
        return [f"{head} {_inline(value)}"]
    return [head, *emit(value, indent + 1)]


def _is_scalar(value: Value) -> bool:
    return isinstance(value, str) or not isinstance(value, Sequence | Mapping)


def _inline(value: Value) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _RESERVED
        return value if plain else _quoted(value)
    if isinstance(value, float):
        return _number(value)
    return json.dumps(value)  # JSON is YAML


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


def _number(value: float) -> str:
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    digits, e, power = repr(value).partition("e")
    # Without a point or a sign of the power, YAML 1.1 reads a string.
    return f"{digits if '.' in digits or not e else digits + '.0'}{e}{power}"
