"""What a collection is: its name, its vectors' shape and origin."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Self, TypeAlias

from index.errors import InvalidInput

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

# Also a directory's name: no upper case (file systems that fold case), no dot, no separator.
NAME = re.compile(r"[a-z]([a-z0-9_-]{0,61}[a-z0-9])?")


class Metric(StrEnum):
    """How two vectors are compared; a larger score is nearer."""

    COSINE = "cosine"  # vectors are scaled to length 1 when they are written
    DOT = "dot"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec:
    """What stays the same for a collection's life, and its description.

    `fingerprint` and `embedding` are the server's: stored and given back as they are. An empty
    `fingerprint_hash` means that callers bring vectors of their own and nothing is checked.
    """

    name: str
    dimensions: int
    metric: Metric = Metric.COSINE
    fingerprint: Mapping[str, JSON] = field(default_factory=dict)
    fingerprint_hash: str = ""
    embedding: Mapping[str, JSON] = field(default_factory=dict)
    description: str = ""

    def checked(self, *, dimensions_max: int) -> Self:
        """Itself. Raises InvalidInput for what cannot be a collection."""
        if not NAME.fullmatch(self.name):
            raise InvalidInput(
                "name",
                f"{self.name!r} is no collection name: 1 to 63 of a-z, 0-9, - and _, "
                "a letter first, a letter or digit last",
            )
        if not 1 <= self.dimensions <= dimensions_max:
            raise InvalidInput("dimensions", f"{self.dimensions} is not in 1 to {dimensions_max}")
        return self

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, source: str) -> Self:
        """Raises ValueError or TypeError when `source` is not the JSON of a spec."""
        values = json.loads(source)
        return cls(**{**values, "metric": Metric(values["metric"])})
