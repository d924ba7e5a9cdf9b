"""Every RPC that the client calls: its path, its messages, and whether it may be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf import wrappers_pb2
from google.protobuf.message import Message

from polyseme.v1 import (
    admin_pb2,
    attention_pb2,
    collection_pb2,
    compare_pb2,
    document_pb2,
    encoder_pb2,
    language_model_pb2,
    search_pb2,
    sense_pb2,
    translation_pb2,
)

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, A]):
    """One RPC. `repeatable`: it changes nothing, or its request id keeps a repetition harmless."""

    service: str
    name: str
    request: type[Q]
    answer: type[A]
    repeatable: bool
    package: str = "polyseme.v1"

    @property
    def path(self) -> str:
        """Such as `/polyseme.v1.EncoderService/Embed`."""
        return f"/{self.package}.{self.service}/{self.name}"


_e, _c, _d = encoder_pb2, collection_pb2, document_pb2
_ENCODER, _COLLECTION, _DOCUMENT = "EncoderService", "CollectionService", "DocumentService"

EMBED = Method(_ENCODER, "Embed", _e.EmbedRequest, _e.EmbedResponse, True)
EMBED_STREAM = Method(_ENCODER, "EmbedStream", _e.EmbedStreamRequest, _e.EmbedStreamResponse, True)
EMBED_WORDS = Method(_ENCODER, "EmbedWords", _e.EmbedWordsRequest, _e.EmbedWordsResponse, True)
EMBED_TOKENS = Method(_ENCODER, "EmbedTokens", _e.EmbedTokensRequest, _e.EmbedTokensResponse, True)
SIMILARITY = Method(_ENCODER, "Similarity", _e.SimilarityRequest, _e.SimilarityResponse, True)
TOKENIZE = Method(_ENCODER, "Tokenize", _e.TokenizeRequest, _e.TokenizeResponse, True)
DETOKENIZE = Method(_ENCODER, "Detokenize", _e.DetokenizeRequest, _e.DetokenizeResponse, True)

COMPARE = Method(
    "CompareService",
    "CompareEmbeddings",
    compare_pb2.CompareEmbeddingsRequest,
    compare_pb2.CompareEmbeddingsResponse,
    True,
)

GET_ATTENTION = Method(
    "AttentionService",
    "GetAttention",
    attention_pb2.GetAttentionRequest,
    attention_pb2.GetAttentionResponse,
    True,
)
FILL_MASK = Method(
    "LanguageModelService",
    "FillMask",
    language_model_pb2.FillMaskRequest,
    language_model_pb2.FillMaskResponse,
    True,
)
SUBSTITUTE = Method(
    "LanguageModelService",
    "Substitute",
    language_model_pb2.SubstituteRequest,
    language_model_pb2.SubstituteResponse,
    True,
)

FIT_SENSES = Method(
    "SenseService", "FitSenses", sense_pb2.FitSensesRequest, sense_pb2.FitSensesResponse, True
)
CLASSIFY_SENSES = Method(
    "SenseService",
    "ClassifySenses",
    sense_pb2.ClassifySensesRequest,
    sense_pb2.ClassifySensesResponse,
    True,
)

_t = translation_pb2
TRANSLATE = Method(
    "TranslationService", "Translate", _t.TranslateRequest, _t.TranslateResponse, True
)
TRANSLATE_STREAM = Method(
    "TranslationService",
    "TranslateStream",
    _t.TranslateStreamRequest,
    _t.TranslateStreamResponse,
    True,
)
LIST_LANGUAGE_PAIRS = Method(
    "TranslationService",
    "ListLanguagePairs",
    _t.ListLanguagePairsRequest,
    _t.ListLanguagePairsResponse,
    True,
)

CREATE_COLLECTION = Method(
    _COLLECTION, "CreateCollection", _c.CreateCollectionRequest, _c.CreateCollectionResponse, False
)
GET_COLLECTION = Method(
    _COLLECTION, "GetCollection", _c.GetCollectionRequest, _c.GetCollectionResponse, True
)
LIST_COLLECTIONS = Method(
    _COLLECTION, "ListCollections", _c.ListCollectionsRequest, _c.ListCollectionsResponse, True
)
UPDATE_COLLECTION = Method(
    _COLLECTION, "UpdateCollection", _c.UpdateCollectionRequest, _c.UpdateCollectionResponse, False
)
DELETE_COLLECTION = Method(
    _COLLECTION, "DeleteCollection", _c.DeleteCollectionRequest, _c.DeleteCollectionResponse, False
)
CREATE_SNAPSHOT = Method(
    _COLLECTION, "CreateSnapshot", _c.CreateSnapshotRequest, _c.CreateSnapshotResponse, False
)
RESTORE_SNAPSHOT = Method(
    _COLLECTION, "RestoreSnapshot", _c.RestoreSnapshotRequest, _c.RestoreSnapshotResponse, False
)
CHECK_COLLECTION = Method(
    _COLLECTION, "CheckCollection", _c.CheckCollectionRequest, _c.CheckCollectionResponse, True
)
COMPACT_COLLECTION = Method(
    _COLLECTION,
    "CompactCollection",
    _c.CompactCollectionRequest,
    _c.CompactCollectionResponse,
    False,
)

UPSERT = Method(
    _DOCUMENT, "UpsertDocuments", _d.UpsertDocumentsRequest, _d.UpsertDocumentsResponse, True
)
DELETE = Method(
    _DOCUMENT, "DeleteDocuments", _d.DeleteDocumentsRequest, _d.DeleteDocumentsResponse, True
)
PURGE = Method(
    _DOCUMENT, "PurgeDocuments", _d.PurgeDocumentsRequest, _d.PurgeDocumentsResponse, True
)
GET_DOCUMENT = Method(_DOCUMENT, "GetDocument", _d.GetDocumentRequest, _d.GetDocumentResponse, True)
BATCH_GET_DOCUMENTS = Method(
    _DOCUMENT, "BatchGetDocuments", _d.BatchGetDocumentsRequest, _d.BatchGetDocumentsResponse, True
)
LIST_DOCUMENTS = Method(
    _DOCUMENT, "ListDocuments", _d.ListDocumentsRequest, _d.ListDocumentsResponse, True
)
COUNT_DOCUMENTS = Method(
    _DOCUMENT, "CountDocuments", _d.CountDocumentsRequest, _d.CountDocumentsResponse, True
)
WRITE_STREAM = Method(_DOCUMENT, "WriteStream", _d.WriteStreamRequest, _d.WriteStreamResponse, True)

SEARCH = Method(
    "SearchService", "Search", search_pb2.SearchRequest, search_pb2.SearchResponse, True
)
BATCH_SEARCH = Method(
    "SearchService",
    "BatchSearch",
    search_pb2.BatchSearchRequest,
    search_pb2.BatchSearchResponse,
    True,
)

GET_SERVER_INFO = Method(
    "AdminService",
    "GetServerInfo",
    admin_pb2.GetServerInfoRequest,
    admin_pb2.GetServerInfoResponse,
    True,
)
GET_STATISTICS = Method(
    "AdminService",
    "GetStatistics",
    admin_pb2.GetStatisticsRequest,
    admin_pb2.GetStatisticsResponse,
    True,
)
DRAIN = Method("AdminService", "Drain", admin_pb2.DrainRequest, admin_pb2.DrainResponse, False)

# The standard health service's messages are one string and one enum, field 1 each: on the wire
# the same as protobuf's own wrappers, which saves a dependency for two fields.
HEALTH_CHECK = Method(
    "Health",
    "Check",
    wrappers_pb2.StringValue,
    wrappers_pb2.Int32Value,
    True,
    package="grpc.health.v1",
)
