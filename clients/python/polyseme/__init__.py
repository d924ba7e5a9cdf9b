"""Talk to a polyseme server: vectors of texts and of words in context, search, collections.

from polyseme import Client, field

with Client("127.0.0.1:50051") as client:
    print(client.compare("apple", ["Apple was juicy", "Apple stock crashed today"]))
    hits = client.search("articles", "fruit", filter=field("year") >= 2020)
"""

from polyseme.aclient import AsyncClient
from polyseme.attention import Attention
from polyseme.client import Client
from polyseme.collection import (
    Check,
    Collection,
    CollectionStatistics,
    Compaction,
    Finding,
    OwnVectors,
    ServerVectors,
    Snapshot,
)
from polyseme.comparison import Comparison, View
from polyseme.connection import Tls
from polyseme.document import Document, Written
from polyseme.embedding import Embeddings
from polyseme.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    FingerprintMismatch,
    InputTooLong,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    PolysemeError,
    ServerError,
    Unauthenticated,
    Unavailable,
)
from polyseme.filling import Filled, FilledMask, Guess, Substitutes
from polyseme.filters import Field, Filter, field
from polyseme.retry import Retry
from polyseme.searching import (
    ByVector,
    Explanation,
    Highlight,
    Hit,
    HitTranslation,
    Like,
    SearchResult,
    WordIn,
)
from polyseme.senses import Sense, SenseExample, SenseInventory, ToldSense, WordSenses
from polyseme.service import Limits, Model, ServerInfo, Statistics
from polyseme.translating import Alignment, Hypothesis, TranslatedSentence, Translation
from polyseme.vectors import Fingerprint, Span, Timing, TokenCount
from polyseme.version import VERSION as __version__
from polyseme.words import Token, Tokens, Word
from polyseme.writing import Progress

__all__ = [
    "Aborted",
    "Alignment",
    "AlreadyExists",
    "AsyncClient",
    "Attention",
    "ByVector",
    "Cancelled",
    "Check",
    "Client",
    "Collection",
    "CollectionStatistics",
    "Compaction",
    "Comparison",
    "DataLoss",
    "DeadlineExceeded",
    "Document",
    "Embeddings",
    "Explanation",
    "FailedPrecondition",
    "Field",
    "FieldViolation",
    "Filled",
    "FilledMask",
    "Filter",
    "Finding",
    "Fingerprint",
    "FingerprintMismatch",
    "Guess",
    "Highlight",
    "Hit",
    "HitTranslation",
    "Hypothesis",
    "InputTooLong",
    "InvalidRequest",
    "Like",
    "Limits",
    "Model",
    "NotFound",
    "Overloaded",
    "OwnVectors",
    "PermissionDenied",
    "PolysemeError",
    "Progress",
    "Retry",
    "SearchResult",
    "Sense",
    "SenseExample",
    "SenseInventory",
    "ServerError",
    "ServerInfo",
    "ServerVectors",
    "Snapshot",
    "Span",
    "Statistics",
    "Substitutes",
    "Timing",
    "Tls",
    "Token",
    "TokenCount",
    "Tokens",
    "ToldSense",
    "TranslatedSentence",
    "Translation",
    "Unauthenticated",
    "Unavailable",
    "View",
    "Word",
    "WordIn",
    "WordSenses",
    "Written",
    "__version__",
    "field",
]
