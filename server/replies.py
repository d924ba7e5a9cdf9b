"""What the encoder's RPCs answer, from what the embedder gave. Pure functions."""

from collections.abc import Mapping, Sequence

from encoder.tokenizer import TokenizedText, Tokenizer
from polyseme.v1 import encoder_pb2
from server.call import request_id
from server.embedder import Embedded, EmbeddedStates, EmbeddedWord, EmbeddedWords
from server.errors import RequestInvalid, status_of
from server.messages import (
    counts_to,
    fingerprint_to,
    matrix_to,
    put_counts,
    put_vectors,
    span_to,
    timing_to,
    vector_to,
)
from server.tokens import token_messages


def embed_reply(
    embedded: Embedded, encoding: int, errors: Mapping[int, RequestInvalid] | None = None
) -> encoder_pb2.EmbedResponse:
    """errors: of the texts that have no vector, by their index among all"""
    reply = encoder_pb2.EmbedResponse(
        fingerprint=fingerprint_to(embedded.fingerprint), timing=timing_to(embedded.timing)
    )
    wrong = errors or {}
    counts = iter(embedded.counts)
    vectors = []
    for index in range(len(embedded.counts) + len(wrong)):
        embedding = reply.embeddings.add()
        if index in wrong:
            embedding.error.CopyFrom(status_of(wrong[index], request_id()))
            continue
        put_counts(embedding.tokens, next(counts))
        vectors.append(embedding.vector)
    put_vectors(vectors, embedded.vectors, encoding)
    return reply


def words_reply(
    request: encoder_pb2.EmbedWordsRequest, embedded: EmbeddedWords, encoding: int
) -> encoder_pb2.EmbedWordsResponse:
    """Raises RequestInvalid for a target that the model did not read."""
    results = []
    for index, (given, found) in enumerate(zip(request.inputs, embedded.words, strict=True)):
        if given.targets and None in found:
            field = f"inputs[{index}].targets[{found.index(None)}]"
            problem = "the model does not read this word: it was cut away, or has no tokens"
            raise RequestInvalid(field, problem)
        results.append(
            encoder_pb2.WordsResult(
                words=[_word(given.text, word, encoding) for word in found if word],
                tokens=counts_to(embedded.counts[index]),
            )
        )
    return encoder_pb2.EmbedWordsResponse(
        results=results,
        layers=embedded.layers,
        fingerprint=fingerprint_to(embedded.fingerprint),
        timing=timing_to(embedded.timing),
        space=request.space or encoder_pb2.WORD_SPACE_CONTEXT,
    )


def states_reply(
    texts: Sequence[str],
    embedded: EmbeddedStates,
    layers: Sequence[int],
    tokenizer: Tokenizer,
) -> encoder_pb2.EmbedTokensResponse:
    rows = zip(texts, embedded.windows, embedded.states, embedded.counts, strict=True)
    return encoder_pb2.EmbedTokensResponse(
        results=[
            encoder_pb2.TokensResult(
                tokens=token_messages(text, window, tokenizer),
                states=matrix_to(states),
                count=counts_to(counts),
            )
            for text, window, states, counts in rows
        ],
        layers=layers,
        fingerprint=fingerprint_to(embedded.fingerprint),
        timing=timing_to(embedded.timing),
    )


def tokenize_reply(
    texts: Sequence[str],
    tokenized: Sequence[TokenizedText],
    special_tokens: bool,
    tokenizer: Tokenizer,
) -> encoder_pb2.TokenizeResponse:
    results = []
    for text, seen in zip(texts, tokenized, strict=True):
        tokens = token_messages(text, seen.windows[0], tokenizer)
        kept = [token for token in tokens if special_tokens or not token.special]
        results.append(encoder_pb2.TokenizeResult(tokens=kept))
    return encoder_pb2.TokenizeResponse(results=results, tokenizer_sha256=tokenizer.sha256)


def _word(text: str, word: EmbeddedWord, encoding: int) -> encoder_pb2.WordEmbedding:
    return encoder_pb2.WordEmbedding(
        word=text[word.span.start : word.span.end],
        span=span_to(word.span),
        vector=vector_to(word.vector, encoding),
        tokens=word.tokens,
    )
