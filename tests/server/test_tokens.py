from hypothesis import given
from hypothesis import strategies as st

from server.tokens import byte_offsets


@given(text=st.text(max_size=40))
def test_byte_offsets_are_those_of_utf8(text):
    expected = [len(text[:end].encode()) for end in range(len(text) + 1)]

    assert byte_offsets(text).tolist() == expected
