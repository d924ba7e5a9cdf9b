"""Texts, words and tokens to vectors."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

import numpy as np

from encoder.runtime import Encoder, normalize
from encoder.tokenizer import Truncation
from encoder.words import Span, words
from polyseme.v1 import encoder_pb2, encoder_pb2_grpc
from server.batching import Lane
from server.call import request_id
from server.embedder import EmbeddedWords, Embedder
from server.errors import (
    CallRefused,
    LimitExceeded,
    ReplyTooLarge,
    RequestInvalid,
    naming,
    status_of,
)
from server.limits import check_count, check_text, check_texts
from server.messages import (
    counts_to,
    encoding_from,
    fingerprint_to,
    lane_from,
    layers_from,
    matrix_to,
    plan_from,
    subword_pooling_from,
    targets_from,
    timing_to,
    truncation_from,
    wants_sense_space,
)
from server.partial import embed_each
from server.replies import embed_reply, states_reply, tokenize_reply, words_reply
from server.settings import Settings
from server.streams import in_order

UNLIMITED_TOKENS = 2**31 - 1  # Tokenize shows all of a text, whatever the model reads of it


def inputs_name(index: int) -> str:
    return f"inputs[{index}]"


def inputs_text_name(index: int) -> str:
    return f"inputs[{index}].text"


def side_name(left: int, index: int) -> str:
    return f"left[{index}]" if index < left else f"right[{index - left}]"


class EncoderService(encoder_pb2_grpc.EncoderServiceServicer):
    """The model's own RPCs."""

    def __init__(self, embedder: Embedder, settings: Settings) -> None:
        self._embedder = embedder
        self._encoder: Encoder = embedder.encoder
        self._settings = settings

    async def Embed(
        self, request: encoder_pb2.EmbedRequest, context: object
    ) -> encoder_pb2.EmbedResponse:
        return await self._embed(request, Lane.INTERACTIVE)

    async def EmbedStream(
        self, request_iterator: AsyncIterator[encoder_pb2.EmbedStreamRequest], context: object
    ) -> AsyncIterator[encoder_pb2.EmbedStreamResponse]:
        async for reply in in_order(
            request_iterator,
            self._embed_streamed,
            in_flight_max=self._settings.stream_requests_max,
        ):
            yield reply

    async def EmbedWords(
        self, request: encoder_pb2.EmbedWordsRequest, context: object
    ) -> encoder_pb2.EmbedWordsResponse:
        self._check_words_inputs(request.inputs)
        encoding = encoding_from(request.encoding, "encoding")
        embed = self._words_embedding(request)
        # Each target of a text may make it be read once more.
        cost = sum(len(given.text) * max(len(given.targets), 1) for given in request.inputs)
        inputs = await self._embedder.aside(
            partial(wanted_words, request.inputs, self._settings.spans_max), cost
        )
        with naming(inputs_text_name):
            embedded = await embed(inputs)
        return await self._embedder.aside(partial(words_reply, request, embedded, encoding), cost)

    def _words_embedding(
        self, request: encoder_pb2.EmbedWordsRequest
    ) -> Callable[[Sequence[tuple[str, Sequence[Span]]]], Awaitable[EmbeddedWords]]:
        """How the words of `request` become vectors."""
        subword_pooling = subword_pooling_from(request.subword_pooling)
        truncation = truncation_from(request.truncation, "truncation")
        lane = lane_from(request.priority, Lane.INTERACTIVE)
        if wants_sense_space(request):
            return partial(
                self._embedder.sense_words,
                subword_pooling=subword_pooling,
                truncation=truncation,
                lane=lane,
            )
        return partial(
            self._embedder.words,
            layers=layers_from(request.layers, self._encoder, self._encoder.word_layers),
            subword_pooling=subword_pooling,
            normalized=request.normalize if request.HasField("normalize") else True,
            truncation=truncation,
            lane=lane,
        )

    async def EmbedTokens(
        self, request: encoder_pb2.EmbedTokensRequest, context: object
    ) -> encoder_pb2.EmbedTokensResponse:
        check_texts("inputs", request.inputs, self._settings)
        truncation = truncation_from(request.truncation, "truncation")
        if truncation is Truncation.WINDOWS:
            raise RequestInvalid("truncation", "windows overlap; choose ERROR, HEAD or TAIL")
        layers = layers_from(request.layers, self._encoder, (self._encoder.layers,))
        texts = list(request.inputs)
        with naming(inputs_name):
            embedded = await self._embedder.states(
                texts,
                layers=layers,
                normalized=request.normalize,
                truncation=truncation,
                lane=lane_from(request.priority, Lane.INTERACTIVE),
            )
        return await self._embedder.aside(
            partial(states_reply, texts, embedded, layers, self._encoder.tokenizer),
            sum(map(len, texts)),
        )

    async def Similarity(
        self, request: encoder_pb2.SimilarityRequest, context: object
    ) -> encoder_pb2.SimilarityResponse:
        pairs = request.mode == encoder_pb2.SIMILARITY_MODE_PAIRS
        self._check_sides(request, pairs)
        left, plan = len(request.left), plan_from(request.options, self._encoder)
        together = "right" if request.right else "left"
        with naming(partial(side_name, left), together):
            embedded = await self._embedder.embed(
                [*request.left, *request.right],
                plan,
                lane_from(request.priority, Lane.INTERACTIVE),
            )
        tokens = [counts_to(counts) for counts in embedded.counts]
        vectors = normalize(embedded.vectors)
        rows, columns = vectors[:left], vectors[left:] if request.right else vectors
        if pairs:
            similarities = np.einsum("ij,ij->i", rows, columns)[:, np.newaxis]
        else:
            similarities = rows @ columns.T
        return encoder_pb2.SimilarityResponse(
            similarities=matrix_to(similarities),
            fingerprint=fingerprint_to(embedded.fingerprint),
            timing=timing_to(embedded.timing),
            left_tokens=tokens[:left],
            right_tokens=tokens[left:],
        )

    async def Tokenize(
        self, request: encoder_pb2.TokenizeRequest, context: object
    ) -> encoder_pb2.TokenizeResponse:
        check_count("inputs", len(request.inputs), self._settings.inputs_max, "texts")
        if not request.inputs:
            raise RequestInvalid("inputs", "give at least one text")
        for index, text in enumerate(request.inputs):
            check_text(inputs_name(index), text, self._settings, may_be_empty=True)
        texts = list(request.inputs)
        tokenized = await self._embedder.tokenize(
            texts, Truncation.HEAD, tokens_max=UNLIMITED_TOKENS
        )
        special = request.special_tokens if request.HasField("special_tokens") else True
        return await self._embedder.aside(
            partial(tokenize_reply, texts, tokenized.texts, special, self._encoder.tokenizer),
            sum(map(len, texts)),
        )

    async def Detokenize(
        self, request: encoder_pb2.DetokenizeRequest, context: object
    ) -> encoder_pb2.DetokenizeResponse:
        if not request.inputs:
            raise RequestInvalid("inputs", "give at least one sequence")
        check_count("inputs", len(request.inputs), self._settings.inputs_max, "sequences")
        tokens = sum(len(sequence.ids) for sequence in request.inputs)
        check_count("inputs", tokens, self._settings.call_tokens_max, "tokens together")
        decode = partial(_decoded, self._encoder, request)
        return encoder_pb2.DetokenizeResponse(texts=await self._embedder.aside(decode, tokens))

    async def _embed(
        self, request: encoder_pb2.EmbedRequest, default: Lane, *, patient: bool = False
    ) -> encoder_pb2.EmbedResponse:
        plan = plan_from(request.options, self._encoder)
        encoding = encoding_from(request.options.encoding, "options.encoding")
        lane = lane_from(request.priority, default)
        texts = list(request.inputs)
        if request.partial_success:
            check_count("inputs", len(texts), self._settings.inputs_max, "texts")
            each = await embed_each(
                self._embedder, texts, plan, lane, self._settings, patient=patient
            )
            return embed_reply(each.embedded, encoding, each.errors)
        check_texts("inputs", texts, self._settings)
        with naming(inputs_name):
            embedded = await self._embedder.embed(texts, plan, lane, patient=patient)
        return embed_reply(embedded, encoding)

    async def _embed_streamed(
        self, message: encoder_pb2.EmbedStreamRequest
    ) -> encoder_pb2.EmbedStreamResponse:
        """A message that is refused is answered with its error, and the stream goes on."""
        try:
            reply = await self._embed(message.request, Lane.BULK, patient=True)
        except CallRefused as error:
            status = status_of(error, request_id())
            return encoder_pb2.EmbedStreamResponse(tag=message.tag, error=status)
        return encoder_pb2.EmbedStreamResponse(tag=message.tag, response=reply)

    def _check_words_inputs(self, inputs: Sequence[encoder_pb2.WordsInput]) -> None:
        if not inputs:
            raise RequestInvalid("inputs", "give at least one text")
        check_count("inputs", len(inputs), self._settings.inputs_max, "texts")
        targets = sum(len(given.targets) for given in inputs)
        check_count("inputs", targets, self._settings.spans_max, "targets together")
        for index, given in enumerate(inputs):
            check_text(inputs_text_name(index), given.text, self._settings)

    def _check_sides(self, request: encoder_pb2.SimilarityRequest, pairs: bool) -> None:
        check_texts("left", request.left, self._settings)
        if request.right:
            check_texts("right", request.right, self._settings)
        both = len(request.left) + len(request.right)
        check_count("right", both, self._settings.inputs_max, "texts on both sides")
        if request.mode not in encoder_pb2.SimilarityMode.values():
            raise RequestInvalid("mode", f"{request.mode} is no known value")
        if pairs and len(request.left) != len(request.right):
            problem = (
                f"{len(request.right)} texts; PAIRS wants as many as left, {len(request.left)}"
            )
            raise RequestInvalid("right", problem)
        cells = len(request.left) * (1 if pairs else len(request.right) or len(request.left))
        if cells * 4 > self._settings.message_bytes_max:
            raise ReplyTooLarge(cells * 4, self._settings.message_bytes_max)


def wanted_words(
    inputs: Sequence[encoder_pb2.WordsInput], spans_max: int
) -> list[tuple[str, Sequence[Span]]]:
    """Each text with the spans asked for; all of its words where none is asked for.

    Raises RequestInvalid with the target's path, LimitExceeded for too many words together.
    """
    wanted: list[tuple[str, Sequence[Span]]] = []
    count = 0
    for index, given in enumerate(inputs):
        targets = targets_from(given.text, given.targets, f"inputs[{index}].targets")
        spans = targets or words(given.text)
        count += len(spans)
        if count > spans_max:
            raise LimitExceeded("inputs", count, spans_max, "words together, at least")
        wanted.append((given.text, spans))
    return wanted


def _decoded(encoder: Encoder, request: encoder_pb2.DetokenizeRequest) -> list[str]:
    texts = []
    for index, sequence in enumerate(request.inputs):
        try:
            text = encoder.tokenizer.decode(
                sequence.ids, skip_special=not request.keep_special_tokens
            )
        except ValueError as error:
            raise RequestInvalid(f"inputs[{index}].ids", str(error)) from None
        texts.append(text)
    return texts
