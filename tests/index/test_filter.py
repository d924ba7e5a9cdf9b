import dataclasses
import sqlite3

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from index.documents import Document, Query, SearchMode
from index.errors import DataDamaged, FilterInvalid
from index.filter import And, Equal, Exists, In, Not, Or, Range, check_filter, matches
from index.settings import StoreSettings
from index.store import Store

# The store is emptied by each example instead of being made anew.
ONE_STORE = HealthCheck.function_scoped_fixture

scalars = st.sampled_from([None, True, False, 0, 1, 1.5, -2, 2**60, "", "1", "a", "b", "ä", "true"])
keys = st.sampled_from(["a", "b", "a.b", "ü"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
metadata = st.dictionaries(keys, values, max_size=4)

paths = st.sampled_from(["a", "b", "a.b", "a.a", "b.a", "a.b.a", "ü", "nowhere"])
numbers = st.sampled_from([-2, 0, 1, 1.5, 2**60])
strings = st.sampled_from(["", "1", "a", "ä"])
bounds = st.sampled_from(["gt", "gte", "lt", "lte"])
ranges = st.builds(
    lambda path, given: Range(path, **given),
    paths,
    st.dictionaries(bounds, numbers, min_size=1) | st.dictionaries(bounds, strings, min_size=1),
)
leaves = (
    st.builds(Equal, paths, scalars)
    | st.builds(In, paths, st.lists(scalars, max_size=3).map(tuple))
    | st.builds(Exists, paths)
    | ranges
)
filters = st.recursive(
    leaves,
    lambda inner: (
        st.builds(And, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Not, inner)
    ),
    max_leaves=6,
)


def found_at(value, path):
    """All that is at `path`, said in another way than index/fields.py says it."""
    if isinstance(value, list):
        return [found for child in value for found in found_at(child, path)] + (
            [value] if path == "" else []
        )
    if path == "":
        return [value]
    if not isinstance(value, dict):
        return []
    found = []
    for key, child in value.items():
        if path == key:
            found += found_at(child, "")
        elif path.startswith(key + "."):
            found += found_at(child, path.removeprefix(key + "."))
    return found


def scalars_at(value, path):
    return [v for v in found_at(value, path) if not isinstance(v, list | dict)]


def kin(a, b):
    """Whether the two can be compared: booleans are no numbers."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
    return numbers or type(a) is type(b)


def within(value, filter):
    limits = ((filter.gt, ">"), (filter.gte, ">="), (filter.lt, "<"), (filter.lte, "<="))
    signs = {">": {1}, ">=": {0, 1}, "<": {-1}, "<=": {-1, 0}}
    return all(
        limit is None
        or (kin(value, limit) and (value > limit) - (value < limit) in signs[operator])
        for limit, operator in limits
    )


def passes(filter, value):
    match filter:
        case In(path, wanted):
            answer = any(passes(Equal(path, w), value) for w in wanted)
        case Equal(path, wanted):
            answer = any(kin(v, wanted) and v == wanted for v in scalars_at(value, path))
        case Exists(path):
            answer = bool(found_at(value, path))
        case Range(path):
            answer = any(within(v, filter) for v in scalars_at(value, path))
        case And(inner):
            answer = all(passes(f, value) for f in inner)
        case Or(inner):
            answer = any(passes(f, value) for f in inner)
        case Not(inner):
            answer = not passes(inner, value)
    return answer


@given(filter=filters, value=metadata)
def test_a_filter_means_what_its_words_say(filter, value):
    check_filter(filter, StoreSettings())

    assert matches(filter, value) == passes(filter, value)


@given(filter=filters, values=st.lists(metadata, max_size=5))
@examples(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_sql_finds_the_documents_that_python_finds(collection, filter, values):
    collection.purge(And(()))
    if values:
        vector = np.ones(collection.spec.dimensions, np.float32)
        collection.upsert(
            [Document(id=f"{i}", metadata=m, vector=vector) for i, m in enumerate(values)]
        )

    expected = [f"{i}" for i, m in enumerate(values) if matches(filter, m)]

    assert [d.id for d in collection.list(filter=filter).documents] == expected
    assert collection.count(filter) == len(expected)


@pytest.mark.parametrize(
    ("filter", "field"),
    [
        (Equal("", 1), "filter"),
        (And((Equal("a", 1), Range("a"))), "filter.and[1]"),
        (Or((Not(Range("a", gt=1, lt="b")),)), "filter.or[0].not"),
        (Not(Range("a", gt=True)), "filter.not"),
        (Equal("a", float("nan")), "filter"),
        (Equal("a", 2**63), "filter"),
        (Equal("a", "\ud800"), "filter"),
        (In("a", ([1],)), "filter"),
        (And(("a",)), "filter.and[0]"),
    ],
)
def test_a_filter_that_means_nothing_is_refused_by_its_place(filter, field):
    with pytest.raises(FilterInvalid) as refusal:
        check_filter(filter, StoreSettings())

    assert refusal.value.field == field


def test_a_filter_has_a_limit_of_depth_and_of_terms():
    deep = Equal("a", 1)
    for _ in range(StoreSettings().filter_depth_max):
        deep = Not(deep)
    wide = In("a", tuple(range(StoreSettings().filter_terms_max + 1)))

    with pytest.raises(FilterInvalid, match="too deep"):
        check_filter(deep, StoreSettings())
    with pytest.raises(FilterInvalid, match="257 terms"):
        check_filter(wide, StoreSettings())


def test_the_largest_allowed_filter_still_runs(tmp_path, spec, documents, settings):
    roomy = dataclasses.replace(settings, filter_terms_max=256)
    with Store.open(tmp_path / "roomy", roomy) as store:
        collection = store.create(spec)
        collection.upsert(documents(10))

        assert collection.count(In("n", tuple(range(256)))) == 10


def nested(wrap, depth):
    """A leaf that half of the documents pass, in `depth` - 1 wrappings."""
    filter = Equal("parity", 1)
    for level in range(depth - 1):
        filter = wrap(filter, level)
    return filter


WRAPPINGS = {
    "and, first": lambda inner, level: And((inner, Range("n", gte=level))),
    "and, last": lambda inner, level: And((Range("n", gte=level), inner)),
    "and, alone": lambda inner, level: And((inner,)),
    "or, first": lambda inner, level: Or((inner, Equal("n", 2 * level))),
    "or, last": lambda inner, level: Or((Equal("n", 2 * level), inner)),
    "not": lambda inner, level: Not(inner),
    "all": lambda inner, level: (
        Not(inner),
        And((Exists("n"), inner)),
        Or((inner, In("n", (level, 40)))),
    )[level % 3],
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_filter_as_deep_as_allowed_is_answered_wherever_it_is_given(
    collection, documents, settings, wrapping
):
    filter = nested(WRAPPINGS[wrapping], settings.filter_depth_max)
    made = documents(50)
    collection.upsert(made)
    expected = {d.id for d in made if matches(filter, d.metadata)}
    dense = Query(vector=np.ones(8), filter=filter, k=50)
    lexical = Query(mode=SearchMode.LEXICAL, text="number", filter=filter, k=50)

    assert 0 < len(expected) < 50
    assert collection.count(filter) == len(expected)
    assert [d.id for d in collection.list(filter=filter).documents] == sorted(expected)
    for query in (dense, lexical):
        assert {hit.id for hit in collection.search(query).hits} == expected
    assert collection.purge(filter).deleted == len(expected)
    assert collection.count(filter) == 0


def test_a_filter_may_be_as_deep_and_as_wide_as_allowed_at_once(collection, documents):
    limits = StoreSettings()
    made = documents(50)
    collection.upsert(made)
    deep = nested(WRAPPINGS["all"], limits.filter_depth_max - 1)
    wide = Or((*(Equal("n", n) for n in range(100, 300)), deep))
    check_filter(wide, limits)

    assert collection.count(wide) == sum(matches(wide, d.metadata) for d in made)


@pytest.mark.parametrize("row", ["'no number'", "3.5"])
@pytest.mark.parametrize("mode", SearchMode)
def test_a_value_that_belongs_to_no_row_number_is_damage(collection, documents, mode, row):
    collection.upsert(documents(10))
    connection = sqlite3.connect(collection.directory / "documents.sqlite3")
    with connection:
        connection.execute(f"UPDATE fields SET row = {row} WHERE path = 'parity' AND row = 4")
    connection.close()
    query = Query(
        mode=mode, vector=documents(1)[0].vector, text="number", filter=Equal("parity", 1)
    )

    with pytest.raises(DataDamaged):
        collection.search(query)
