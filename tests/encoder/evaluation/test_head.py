import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from encoder.evaluation.head import HeadDamaged, emit, split, with_head

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # half a pair is no text
SCALARS = TEXTS | st.integers() | st.booleans() | st.floats(allow_nan=False)
KEYS = st.from_regex(r"[a-z][a-z_-]{2,8}_key", fullmatch=True)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def parsed(card):
    return yaml.safe_load("\n".join(split(card)[0]))


@given(values=st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_what_is_written_is_read_back_by_yaml(values):
    assert parsed(with_head("# Title\n", values)) == values


def test_other_keys_keep_their_lines_and_their_order():
    card = "---\n# ours\nlanguage: en\ntags:\n- a # why\n- b\nmodel-index: old\n---\n# Title\n"

    shown = with_head(card, {"model-index": [{"name": "m"}], "license": "mit"})

    assert shown == (
        "---\n# ours\nlanguage: en\ntags:\n- a # why\n- b\n"
        "model-index:\n  - name: m\nlicense: mit\n---\n# Title\n"
    )
    assert with_head(shown, {}) == shown


def test_a_card_without_a_head_gets_one_before_its_text():
    assert with_head("# Title\n", {"license": "mit"}) == "---\nlicense: mit\n---\n# Title\n"


@pytest.mark.parametrize("card", ["---\nlicense: mit\n# Title\n", "---\n- a\n---\n"])
def test_a_broken_head_is_refused(card):
    with pytest.raises(HeadDamaged):
        with_head(card, {"license": "mit"})


def test_words_that_yaml_takes_for_others_are_quoted():
    (line,) = emit({"language": "no"})

    assert line == 'language: "no"'
