import asyncio

import pytest

from server.admission import Admission
from server.auth import ApiKeys, Key, Scope
from server.errors import Draining, NotReady, ScopeMissing, TooManyCalls, Unauthenticated

EMBED = "/polyseme.v1.EncoderService/Embed"
STREAM = "/polyseme.v1.EncoderService/EmbedStream"
DRAIN = "/polyseme.v1.AdminService/Drain"


@pytest.fixture
async def door():
    door = Admission(calls_max=2, streams_max=3)
    door.ready = True
    return door


async def test_streams_and_calls_have_limits_of_their_own(door):
    streams = [door.enter_stream(STREAM, None) for _ in range(3)]
    with pytest.raises(TooManyCalls):
        door.enter_stream(STREAM, None)
    for _ in range(2):
        door.enter(EMBED, None)
    with pytest.raises(TooManyCalls):
        door.enter(EMBED, None)
    assert door.running == 5

    door.leave(streams[0])
    door.leave()

    door.enter(EMBED, None)
    door.enter_stream(STREAM, None)
    assert door.running == 5


async def test_draining_closes_the_open_streams_and_lets_nobody_in(door):
    closed = door.enter_stream(STREAM, None)

    door.drain()

    assert closed.done()
    for enter in (door.enter, door.enter_stream):
        with pytest.raises(Draining):
            enter(EMBED, None)
    waiting = asyncio.create_task(door.idle(10))
    await asyncio.sleep(0)
    assert not waiting.done()
    door.leave(closed)
    await asyncio.wait_for(waiting, 1)


async def test_a_key_without_the_scope_does_not_come_in(door):
    reader = Key(name="web", sha256=b"", scopes=frozenset({Scope.READ}))

    door.enter(EMBED, reader)
    with pytest.raises(ScopeMissing) as refusal:
        door.enter(DRAIN, reader)

    assert (refusal.value.needed, refusal.value.granted) == ("admin", "read")
    assert door.running == 1


async def test_nobody_comes_in_before_the_model_is_there():
    with pytest.raises(NotReady):
        Admission(calls_max=1, streams_max=1).enter(EMBED, None)


@pytest.mark.parametrize(
    ("headers", "why"), [([], "no API key"), (["Bearer a"] * 2, "more than one"), (["x"], "known")]
)
async def test_what_was_sent_instead_of_a_key_is_never_quoted(headers, why):
    door = Admission(calls_max=1, streams_max=1, keys=ApiKeys(()))

    with pytest.raises(Unauthenticated, match=why) as refusal:
        door.identify([("authorization", header) for header in headers])

    assert not any(header in str(refusal.value).split() for header in headers)
