"""Collections of the API from and to the index's specifications."""

from __future__ import annotations

from dataclasses import asdict, replace

from encoder.runtime import Encoder, Pooling
from encoder.tokenizer import Truncation
from index.collection import Collection, State
from index.errors import InvalidInput, StoreError
from index.spec import CollectionSpec, Metric
from polyseme.v1 import collection_pb2, common_pb2
from server.documents import timestamp_to
from server.embedder import Embedder
from server.errors import LimitExceeded, RequestInvalid
from server.messages import (
    dimensions_from,
    fingerprint_to,
    pooling_from,
    truncation_from,
)
from server.prompts import check_prompt_room
from server.recipes import Recipe, default_recipe, fingerprint_of, recipe_of
from server.store_errors import without_directories

DESCRIPTION_BYTES_MAX = 4_096
PROMPT_BYTES_MAX = 1_024  # a prompt is a phrase; it takes room from each text
FINGERPRINT_CHARACTERS_MAX = 128  # a SHA-256 has 64; other systems' hashes may be longer

_METRICS: dict[int, Metric] = {
    collection_pb2.METRIC_UNSPECIFIED: Metric.COSINE,
    collection_pb2.METRIC_COSINE: Metric.COSINE,
    collection_pb2.METRIC_DOT: Metric.DOT,
}
_METRIC_NUMBERS = {
    Metric.COSINE: collection_pb2.METRIC_COSINE,
    Metric.DOT: collection_pb2.METRIC_DOT,
}
_POOLING_NUMBERS = {
    Pooling.MEAN: common_pb2.POOLING_MEAN,
    Pooling.CLS: common_pb2.POOLING_CLS,
    Pooling.MAX: common_pb2.POOLING_MAX,
}
_TRUNCATION_NUMBERS = {
    Truncation.ERROR: common_pb2.TRUNCATION_POLICY_ERROR,
    Truncation.HEAD: common_pb2.TRUNCATION_POLICY_HEAD,
    Truncation.TAIL: common_pb2.TRUNCATION_POLICY_TAIL,
    Truncation.WINDOWS: common_pb2.TRUNCATION_POLICY_WINDOWS,
}
_STATES = {
    State.READY: collection_pb2.COLLECTION_STATE_READY,
    State.READ_ONLY: collection_pb2.COLLECTION_STATE_READ_ONLY,
}


def spec_from(
    message: collection_pb2.Collection, embedder: Embedder, dimensions_max: int
) -> CollectionSpec:
    """What a new collection is to be; its fields are named below `collection`.

    Raises RequestInvalid, LimitExceeded.
    """
    if message.metric not in _METRICS:
        raise RequestInvalid("collection.metric", f"{message.metric} is no known value")
    check_phrase(message.description, "collection.description", DESCRIPTION_BYTES_MAX)
    metric = _METRICS[message.metric]
    made = CollectionSpec(
        name=message.name, dimensions=1, metric=metric, description=message.description
    )
    if message.WhichOneof("vectors") == "external":
        spec = _with_external(made, message.external)
    else:
        spec = _with_recipe(made, _recipe_from(message, metric, embedder), embedder)
    fields = {"name": "collection.name", "dimensions": "collection.external.dimensions"}
    return _checked(spec, dimensions_max, fields)


def name_from(name: str, field: str) -> str:
    """Raises RequestInvalid for what cannot be a collection's name, which is a directory's too."""
    _checked(CollectionSpec(name=name, dimensions=1), 1, {"name": field})
    return name


def _checked(spec: CollectionSpec, dimensions_max: int, fields: dict[str, str]) -> CollectionSpec:
    """The index's own check; `fields` are the request's names for what it may refuse."""
    try:
        return spec.checked(dimensions_max=dimensions_max)
    except InvalidInput as error:
        problem = str(error).removeprefix(f"{error.field}: ")
        raise RequestInvalid(fields[error.field], problem) from None


def _with_external(
    spec: CollectionSpec, external: collection_pb2.ExternalVectors
) -> CollectionSpec:
    if len(external.fingerprint) > FINGERPRINT_CHARACTERS_MAX:
        raise LimitExceeded(
            "collection.external.fingerprint",
            len(external.fingerprint),
            FINGERPRINT_CHARACTERS_MAX,
            "characters",
        )
    return replace(spec, dimensions=external.dimensions, fingerprint_hash=external.fingerprint)


def _with_recipe(spec: CollectionSpec, recipe: Recipe, embedder: Embedder) -> CollectionSpec:
    fingerprint = embedder.fingerprint(recipe.for_documents())
    return replace(
        spec,
        dimensions=recipe.dimensions,
        fingerprint=asdict(fingerprint),
        fingerprint_hash=fingerprint.combined,
        embedding=recipe.to_json(),
    )


def _recipe_from(message: collection_pb2.Collection, metric: Metric, embedder: Embedder) -> Recipe:
    """Lengths matter to an inner product alone: there the model's own choice counts."""
    encoder = embedder.encoder
    normalized = encoder.normalized if metric is Metric.DOT else True
    if message.WhichOneof("vectors") is None:
        return default_recipe(encoder, normalized=normalized)
    config, field = message.embedding, "collection.embedding"
    check_prompt(config.document_prompt, f"{field}.document_prompt", encoder)
    check_prompt(config.query_prompt, f"{field}.query_prompt", encoder)
    return Recipe(
        pooling=pooling_from(config.pooling, f"{field}.pooling") or encoder.pooling,
        dimensions=dimensions_from(config.dimensions, encoder, f"{field}.dimensions"),
        normalized=normalized,
        document_prompt=config.document_prompt,
        query_prompt=config.query_prompt,
        truncation=truncation_from(
            config.truncation, f"{field}.truncation", default=Truncation.WINDOWS
        ),
    )


def check_prompt(prompt: str, field: str, encoder: Encoder) -> None:
    """Raises RequestInvalid for one with which no text could be embedded."""
    check_phrase(prompt, field, PROMPT_BYTES_MAX)
    check_prompt_room(prompt, field, encoder)


def check_phrase(text: str, field: str, bytes_max: int) -> None:
    if "\0" in text:
        raise RequestInvalid(field, f"a NUL character at {text.index(chr(0))}")
    if len(text.encode()) > bytes_max:
        raise LimitExceeded(field, len(text.encode()), bytes_max, "bytes of UTF-8")


def collection_to(collection: Collection) -> collection_pb2.Collection:
    """The whole resource, statistics included. Reads the disk for their sake."""
    spec = collection.spec
    message = collection_pb2.Collection(
        name=spec.name,
        description=spec.description,
        metric=_METRIC_NUMBERS[spec.metric],
        etag=collection.etag,
        create_time=timestamp_to(collection.created_at),
        statistics=statistics_to(collection),
        state=_STATES[collection.state],
        state_reason=without_directories(collection.reason),
    )
    _tell_vectors(message, spec)
    return message


def damaged_to(name: str, error: StoreError) -> collection_pb2.Collection:
    """All that can be said of a collection that could not be opened."""
    return collection_pb2.Collection(
        name=name,
        state=collection_pb2.COLLECTION_STATE_DAMAGED,
        state_reason=without_directories(str(error)),
    )


def _tell_vectors(message: collection_pb2.Collection, spec: CollectionSpec) -> None:
    recipe, fingerprint = recipe_of(spec), fingerprint_of(spec)
    if recipe is None:
        message.external.dimensions = spec.dimensions
        message.external.fingerprint = spec.fingerprint_hash
        return
    message.embedding.CopyFrom(
        collection_pb2.EmbeddingConfig(
            pooling=_POOLING_NUMBERS[recipe.pooling],
            dimensions=recipe.dimensions,
            document_prompt=recipe.document_prompt,
            query_prompt=recipe.query_prompt,
            truncation=_TRUNCATION_NUMBERS[recipe.truncation],
        )
    )
    if fingerprint is not None:
        message.fingerprint.CopyFrom(fingerprint_to(fingerprint))


def statistics_to(collection: Collection) -> collection_pb2.CollectionStatistics:
    """As it is now; the size of its files is read from the disk."""
    statistics = collection.statistics()
    kinds = sorted({segment.kind for segment in statistics.segments})
    return collection_pb2.CollectionStatistics(
        documents=statistics.documents,
        sequence=statistics.sequence,
        dimensions=collection.spec.dimensions,
        disk_bytes=statistics.disk_bytes,
        segments=len(statistics.segments),
        tombstones=statistics.tombstones,
        buffered=statistics.buffer_vectors,
        index_kind=" and ".join(kinds) or "exact",
        building=statistics.building,
    )
