"""SIGTERM under load, again and again: whoever was let in is answered, whoever was not is told to
come back, the client library comes back until it is served, and nothing that was written is lost.

`STOPS=100 pytest -m slow -s tests/server/test_stop.py` prints what was counted.
"""

import asyncio
import os
import random
import socket
import time
from collections import Counter

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from polyseme import AsyncClient, Retry
from polyseme.v1 import encoder_pb2, encoder_pb2_grpc

STOPS = int(os.environ.get("STOPS", "3"))
SEED = int(os.environ.get("STOPS_SEED", "1"))
LONG = "apples and oranges are fruit. " * 20
PATIENT = Retry(attempts_max=1000, wait_max_s=2.0)
PATIENCE_S = 600.0
BACKOFF_S = 5.0  # so long a raw channel may go on telling of the server before
WRITERS, READERS, RAW = 2, 2, 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240 + 60 * STOPS)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Crowd:
    """Callers who never stop; what they saw."""

    def __init__(self, port):
        self.address = f"127.0.0.1:{port}"
        self.stopping = False  # SIGTERM was sent, and the next server does not serve yet
        self.serving_since = time.monotonic()
        self.over = False
        self.raw = Counter()
        self.library = Counter()
        self.wrong = []
        self.acknowledged = set()

    async def write(self, number):
        async with AsyncClient(self.address, retry=PATIENT, timeout_s=PATIENCE_S) as client:
            while not self.over:
                ids = [f"{number}-{self.library['writes']}-{i}" for i in range(5)]
                documents = [{"id": id, "text": f"text {id}"} for id in ids]
                await client.upsert("own", documents)
                self.acknowledged.update(ids)
                self.library["writes"] += 1

    async def read(self):
        async with AsyncClient(self.address, retry=PATIENT, timeout_s=PATIENCE_S) as client:
            while not self.over:
                vectors = await client.embed([LONG] * 3)
                assert len(vectors) == 3
                await client.search("own", "apple")
                self.library["reads"] += 2

    async def call_raw(self):
        """Without the library: the code that each call ends with."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        request = encoder_pb2.EmbedRequest(inputs=[LONG] * 4)
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            embed = encoder_pb2_grpc.EncoderServiceStub(channel).Embed
            while not self.over:
                before = self.stopping
                try:
                    await embed(request, timeout=60)
                    self.raw["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    self._judge(error, before)
                    await asyncio.sleep(0.1)

    def _judge(self, error, before):
        if error.code() is grpc.StatusCode.CANCELLED and self.stopping:
            # gRPC's own, for what reaches it between its last look and its closing the socket.
            self.raw["CANCELLED by gRPC as it closed"] += 1
        elif error.code() is not grpc.StatusCode.UNAVAILABLE:
            self.wrong.append(f"{error.code().name}: {error.details()}")
        elif when := retry_delay_s(error):
            assert 0 < when <= 5
            self.raw["UNAVAILABLE with RetryInfo"] += 1
        elif before or self.stopping or time.monotonic() - self.serving_since < BACKOFF_S:
            self.raw["UNAVAILABLE, no server there"] += 1
        else:
            self.wrong.append(f"UNAVAILABLE while it served: {error.details()}")


def retry_delay_s(error):
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    for detail in status_pb2.Status.FromString(packed).details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            info = error_details_pb2.RetryInfo.FromString(detail.value)
            return info.retry_delay.ToTimedelta().total_seconds()
    return None


async def test_a_server_that_is_told_to_go_under_load_loses_and_breaks_nothing(
    start_process, tmp_path
):
    rng = random.Random(SEED)
    port = free_port()
    crowd = Crowd(port)
    arguments = ("--address", f"127.0.0.1:{port}", "--threads", "1")
    server = await asyncio.to_thread(start_process, tmp_path, *arguments)
    async with AsyncClient(crowd.address) as client:
        await client.create_collection("own")
    jobs = [crowd.write(n) for n in range(WRITERS)]
    jobs += [crowd.read() for _ in range(READERS)] + [crowd.call_raw() for _ in range(RAW)]
    tasks = [asyncio.create_task(job) for job in jobs]
    statuses = Counter()
    for number in range(STOPS):
        await asyncio.sleep(rng.uniform(0.3, 1.5))
        print(f"{number} stopped; raw calls {dict(crowd.raw)}", flush=True)
        crowd.stopping = True
        statuses[await asyncio.to_thread(server.stop, 40)] += 1
        assert not server.errors()
        server = await asyncio.to_thread(start_process, tmp_path, *arguments)
        crowd.stopping, crowd.serving_since = False, time.monotonic()
        for task in tasks:
            if task.done():
                task.result()  # raises what it met
    crowd.over = True
    await asyncio.gather(*tasks)
    missing = await missing_of(crowd)
    await asyncio.to_thread(server.stop, 40)

    print(f"\n{STOPS} SIGTERMs, seed {SEED}: exit statuses {dict(statuses)}")
    print(f"raw calls {dict(crowd.raw)}, wrong {len(crowd.wrong)}")
    print(f"through the library, all answered: {dict(crowd.library)}")
    print(f"documents acknowledged {len(crowd.acknowledged)}, lost {len(missing)}")
    assert statuses == {0: STOPS}
    assert crowd.wrong == []
    assert not missing
    assert crowd.library["writes"] > STOPS
    assert crowd.library["reads"] > STOPS
    assert crowd.raw["OK"] > STOPS


async def missing_of(crowd):
    ids = sorted(crowd.acknowledged)
    async with AsyncClient(crowd.address, retry=PATIENT, timeout_s=PATIENCE_S) as client:
        found = await client.get_many("own", ids[:1000], allow_missing=True)
        for start in range(1000, len(ids), 1000):
            found += await client.get_many("own", ids[start : start + 1000], allow_missing=True)
    return crowd.acknowledged - {document.id for document in found if document is not None}
