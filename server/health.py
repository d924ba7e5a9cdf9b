"""Health that tells the truth: a service is SERVING while its calls would be answered."""

from collections.abc import Iterable, Sequence

import grpc
from grpc_health.v1 import _async, health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
WHOLE_SERVER = ""


class Health:
    """grpc.health.v1 for some services and for the whole; NOT_SERVING until told otherwise."""

    def __init__(self, services: Sequence[str]) -> None:
        self._names = (WHOLE_SERVER, *services)
        self._lacking: frozenset[str] = frozenset()
        self._servicer = _async.HealthServicer()

    async def register(self, server: grpc.aio.Server) -> None:
        await self.set(serving=False)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def lacks(self, services: Iterable[str]) -> None:
        """From now on these stay NOT_SERVING: the model has not what they need."""
        self._lacking = frozenset(services)

    async def set(self, *, serving: bool) -> None:
        """Tell those who ask and those who watch."""
        for name in self._names:
            healthy = serving and name not in self._lacking
            await self._servicer.set(name, SERVING if healthy else NOT_SERVING)
