"""Which scope each method needs: the one table."""

from collections.abc import Mapping

from server.auth import Scope

_PACKAGE = "polyseme.v1"
_METHODS: Mapping[Scope, tuple[str, ...]] = {
    Scope.READ: (
        "EncoderService/Embed",
        "EncoderService/EmbedStream",
        "EncoderService/EmbedWords",
        "EncoderService/EmbedTokens",
        "EncoderService/Similarity",
        "EncoderService/Tokenize",
        "EncoderService/Detokenize",
        "CompareService/CompareEmbeddings",
        "AttentionService/GetAttention",
        "LanguageModelService/FillMask",
        "LanguageModelService/Substitute",
        "SenseService/FitSenses",
        "SenseService/ClassifySenses",
        "TranslationService/Translate",
        "TranslationService/TranslateStream",
        "TranslationService/ListLanguagePairs",
        "CollectionService/GetCollection",
        "CollectionService/ListCollections",
        "DocumentService/GetDocument",
        "DocumentService/BatchGetDocuments",
        "DocumentService/ListDocuments",
        "DocumentService/CountDocuments",
        "SearchService/Search",
        "SearchService/BatchSearch",
        "AdminService/GetServerInfo",  # limits: every client asks for them first
    ),
    Scope.WRITE: (
        "CollectionService/CreateCollection",
        "CollectionService/UpdateCollection",
        "CollectionService/DeleteCollection",
        "DocumentService/UpsertDocuments",
        "DocumentService/DeleteDocuments",
        "DocumentService/PurgeDocuments",
        "DocumentService/WriteStream",
    ),
    Scope.ADMIN: (
        "CollectionService/CreateSnapshot",
        "CollectionService/RestoreSnapshot",
        "CollectionService/CheckCollection",
        "CollectionService/CompactCollection",
        "AdminService/GetStatistics",
        "AdminService/Drain",
    ),
}

# As gRPC names them, /polyseme.v1.EncoderService/Embed.
NEEDED: Mapping[str, Scope] = {
    f"/{_PACKAGE}.{method}": scope for scope, methods in _METHODS.items() for method in methods
}


def scope_of(method: str) -> Scope:
    """The scope that a call of `method` needs; ADMIN for one that was forgotten above."""
    return NEEDED.get(method, Scope.ADMIN)
