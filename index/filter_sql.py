"""A filter as SQL over the table of metadata fields.

Each part becomes a SELECT of row numbers, answered by the fields' primary key
(path, kind, value, row); And, Or and Not become INTERSECT, UNION and EXCEPT. All of them stand
side by side in one WITH clause: nested as deep as filters may be, they overflow SQLite's parser.
"""

from __future__ import annotations

from collections.abc import Iterable

from index.fields import field_of, kind_of
from index.filter import And, Equal, Exists, Filter, In, Not, Or, Range

Parameters = list[int | float | str]

EVERYTHING = "SELECT row FROM documents"
NOTHING = "SELECT row FROM documents WHERE 0"
LEAF = "SELECT row FROM fields WHERE path = ?"


def rows_sql(filter: Filter) -> tuple[str, Parameters]:
    """A SELECT that gives the row of each document that passes `filter`, and its parameters."""
    selects: list[str] = []
    parameters: Parameters = []
    whole = _part(filter, selects, parameters)
    if len(selects) == 1:  # SQLite has short ways for a plain SELECT
        return selects[0], parameters
    parts = ", ".join(f"part{i} AS ({select})" for i, select in enumerate(selects))
    return f"WITH {parts} {whole}", parameters


def _part(filter: Filter, selects: list[str], parameters: Parameters) -> str:
    """Append the SELECT of `filter` behind those of its parts; gives one that reads it."""
    match filter:
        case And(filters):
            inner = [_part(f, selects, parameters) for f in filters]
            select = _combined(inner, "INTERSECT", EVERYTHING)
        case Or(filters):
            inner = [_part(f, selects, parameters) for f in filters]
            select = _combined(inner, "UNION", NOTHING)
        case Not(negated):
            select = f"{EVERYTHING} EXCEPT {_part(negated, selects, parameters)}"
        case _:
            select, values = _leaf(filter)
            parameters += values
    selects.append(select)
    return f"SELECT row FROM part{len(selects) - 1}"


def _combined(selects: Iterable[str], operator: str, empty: str) -> str:
    return f" {operator} ".join(selects) or empty


def _leaf(filter: Equal | In | Range | Exists) -> tuple[str, Parameters]:
    match filter:
        case Equal(path, value):
            _, kind, stored = field_of(path, value)
            return f"{LEAF} AND kind = ? AND value = ?", [path, kind, stored]
        case In(path, values):
            equals = [_leaf(Equal(path, value)) for value in values]
            given = [value for _, parameters in equals for value in parameters]
            return _combined((select for select, _ in equals), "UNION", NOTHING), given
        case Exists(path):
            return LEAF.replace("SELECT", "SELECT DISTINCT", 1), [path]
        case Range():
            return _range(filter)


def _range(filter: Range) -> tuple[str, Parameters]:
    bounds = filter.bounds()
    conditions = "".join(f" AND value {operator} ?" for operator, _ in bounds)
    sql = LEAF.replace("SELECT", "SELECT DISTINCT", 1) + " AND kind = ?" + conditions
    return sql, [filter.path, kind_of(bounds[0][1]), *(value for _, value in bounds)]
