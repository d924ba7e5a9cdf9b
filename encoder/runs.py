"""Many things in runs that are small enough to be held at once. Pure functions."""

from collections.abc import Iterator, Sequence


def runs_of(sizes: Sequence[int], size_max: int) -> Iterator[slice]:
    """The longest runs, from the left, that have `size_max` together; a larger thing is alone."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > size_max:
            yield slice(start, index)
            start, total = index, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))
