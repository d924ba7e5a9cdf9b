"""How a collection's texts become vectors: its embedding settings resolved against the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

from encoder.runtime import Encoder, Fingerprint, Pooling
from encoder.tokenizer import Truncation
from index.errors import FingerprintMismatch
from index.spec import JSON, CollectionSpec
from server.embedder import Embedded, Embedder, EmbedPlan, Lane
from server.errors import RequestInvalid, naming


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Stored with a collection, so that a text gives the same vector years later."""

    pooling: Pooling
    dimensions: int
    normalized: bool
    document_prompt: str
    query_prompt: str
    truncation: Truncation

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> Self:
        """Raises KeyError, TypeError or ValueError for what `to_json` did not write."""
        known: dict[str, object] = {field.name: values[field.name] for field in fields(cls)}
        known["pooling"] = Pooling(str(known["pooling"]))
        known["truncation"] = Truncation(str(known["truncation"]))
        return cls(**known)  # type: ignore[arg-type]  # written by to_json

    def to_json(self) -> dict[str, JSON]:
        return {**asdict(self), "pooling": str(self.pooling), "truncation": str(self.truncation)}

    def for_documents(self) -> EmbedPlan:
        return self._plan(self.document_prompt)

    def for_queries(self) -> EmbedPlan:
        return self._plan(self.query_prompt)

    def _plan(self, prompt: str) -> EmbedPlan:
        return EmbedPlan(
            pooling=self.pooling,
            dimensions=self.dimensions,
            normalized=self.normalized,
            prompt=prompt,
            truncation=self.truncation,
        )


def recipe_of(spec: CollectionSpec) -> Recipe | None:
    """How the server embeds this collection's texts; None where callers bring the vectors."""
    return Recipe.from_json(spec.embedding) if spec.embedding else None


def usable_recipe(spec: CollectionSpec, embedder: Embedder) -> Recipe:
    """The recipe, if the loaded model still makes the vectors that the collection holds.

    Raises RequestInvalid for a collection of external vectors, FingerprintMismatch if another
    model (or another build of it) was loaded since.
    """
    recipe = recipe_of(spec)
    if recipe is None:
        raise RequestInvalid(
            "collection", f"{spec.name!r} holds callers' vectors; texts are not embedded for it"
        )
    current = embedder.fingerprint(recipe.for_documents())
    if current.combined != spec.fingerprint_hash:
        raise FingerprintMismatch(
            spec.name, current.combined, spec.fingerprint_hash, differences(spec, current)
        )
    return recipe


async def embed_named(
    embedder: Embedder,
    texts: Sequence[str],
    plan: EmbedPlan,
    lane: Lane,
    *,
    together: str,
    each: Callable[[int], str],
    patient: bool = False,
) -> Embedded:
    """The texts' vectors; what is wrong is told by the request's names for the texts.

    together: the field that holds them all; each: the field of one, by its index
    """
    with naming(each, together):
        return await embedder.embed(texts, plan, lane, patient=patient)


def can_highlight(spec: CollectionSpec, embedder: Embedder) -> bool:
    """Whether the collection's vectors can be compared with token states of the loaded model.

    Not those of callers, not those of another model, and not where a layer follows the pooling.
    """
    encoder = embedder.encoder
    recipe = recipe_of(spec)
    if recipe is None or encoder.states_width != encoder.width:
        return False
    return embedder.fingerprint(recipe.for_documents()).combined == spec.fingerprint_hash


def differences(spec: CollectionSpec, current: Fingerprint) -> list[str]:
    """What differs between the collection's fingerprint and `current`, both values named."""
    given = asdict(current)
    return [
        f"{name} is {given[name]!r}, was {spec.fingerprint.get(name)!r}"
        for name in given
        if spec.fingerprint.get(name) != given[name]
    ]


def fingerprint_of(spec: CollectionSpec) -> Fingerprint | None:
    """What made the collection's vectors; None for external ones."""
    if not spec.fingerprint:
        return None
    return Fingerprint(**spec.fingerprint)  # type: ignore[arg-type]  # written by asdict


def default_recipe(encoder: Encoder, *, normalized: bool) -> Recipe:
    """The model's own choices, its named prompts for documents and queries included."""
    return Recipe(
        pooling=encoder.pooling,
        dimensions=encoder.width,
        normalized=normalized,
        document_prompt=encoder.prompts.get("document", ""),
        query_prompt=encoder.prompts.get("query", ""),
        truncation=Truncation.WINDOWS,
    )
