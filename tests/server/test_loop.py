"""One call that asks for much leaves the event loop, and so everybody else, its turn."""

import asyncio
import time

import pytest

from polyseme.v1 import attention_pb2, common_pb2, encoder_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

KIB = 1024
GAP_S_MAX = 2.0  # threads that hold the GIL and a machine that does other things are within it


def bank(count):
    return [encoder_pb2.WordTarget(word=encoder_pb2.WordOccurrence(word="bank"))] * count


async def longest_gap_s(work):
    """Between two turns of the loop while `work` runs."""
    gap_s = 0.0

    async def tick():
        nonlocal gap_s
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            gap_s = max(gap_s, time.monotonic() - before)

    ticker = asyncio.create_task(tick())
    try:
        await work
    finally:
        ticker.cancel()
    return gap_s


async def test_hundreds_of_words_of_a_long_text_are_looked_for_beside_the_loop(stubs):
    request = attention_pb2.GetAttentionRequest(
        text=("the bank of a river " * 4000)[: 64 * KIB],
        words=bank(200),
        truncation=common_pb2.TRUNCATION_POLICY_HEAD,
        kind=attention_pb2.ATTENTION_KIND_HEAD_MEAN,
        layers=[1],
    )

    async def attention():
        async for message in stubs.attention.GetAttention(request):
            assert message.rows == [2]

    assert await longest_gap_s(attention()) < GAP_S_MAX


async def test_thousands_of_words_of_a_short_text_are_looked_for_beside_the_loop(stubs):
    text = ("the bank of a river " * 30)[:598]
    given = encoder_pb2.WordsInput(text=text, targets=bank(8000))

    async def words():
        reply = await stubs.encoder.EmbedWords(encoder_pb2.EmbedWordsRequest(inputs=[given]))
        assert len(reply.results[0].words) == 8000

    gap = await longest_gap_s(words())
    assert gap < GAP_S_MAX
