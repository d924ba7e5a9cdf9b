"""A filter as SQL over the table of metadata fields.

Each part becomes a SELECT of row numbers, answered by the fields' primary key
(path, kind, value, row); And, Or and Not become INTERSECT, UNION and EXCEPT.
"""

from __future__ import annotations

from index.fields import field_of, kind_of
from index.filter import And, Equal, Exists, Filter, In, Not, Or, Range

Parameters = list[int | float | str]

EVERYTHING = "SELECT row FROM documents"
NOTHING = "SELECT row FROM documents WHERE 0"
LEAF = "SELECT row FROM fields WHERE path = ?"


def rows_sql(filter: Filter) -> tuple[str, Parameters]:  # noqa: PLR0911  one for each kind
    """A SELECT that gives the row of each document that passes `filter`, and its parameters."""
    match filter:
        case And(filters):
            return _combined(filters, "INTERSECT", EVERYTHING)
        case Or(filters):
            return _combined(filters, "UNION", NOTHING)
        case Not(inner):
            sql, parameters = rows_sql(inner)
            return f"{EVERYTHING} EXCEPT SELECT row FROM ({sql})", parameters
        case Equal(path, value):
            _, kind, stored = field_of(path, value)
            return f"{LEAF} AND kind = ? AND value = ?", [path, kind, stored]
        case In(path, values):
            equals = tuple(Equal(path, value) for value in values)
            return _combined(equals, "UNION", NOTHING)
        case Exists(path):
            return LEAF.replace("SELECT", "SELECT DISTINCT", 1), [path]
        case Range():
            return _range(filter)


def _combined(filters: tuple[Filter, ...], operator: str, empty: str) -> tuple[str, Parameters]:
    if not filters:
        return empty, []
    parts = [rows_sql(f) for f in filters]
    sql = f" {operator} ".join(f"SELECT row FROM ({part})" for part, _ in parts)
    return sql, [value for _, parameters in parts for value in parameters]


def _range(filter: Range) -> tuple[str, Parameters]:
    bounds = filter.bounds()
    conditions = "".join(f" AND value {operator} ?" for operator, _ in bounds)
    sql = LEAF.replace("SELECT", "SELECT DISTINCT", 1) + " AND kind = ?" + conditions
    return sql, [filter.path, kind_of(bounds[0][1]), *(value for _, value in bounds)]
