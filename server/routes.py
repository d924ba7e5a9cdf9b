"""Which method of which service answers a call."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any

import grpc
from grpc import StatusCode

from server.interceptors import Interceptor

Register = Callable[[Any, Any], None]  # as the generated add_XServicer_to_server


class Routes(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic at run time
    """Methods by name. Services can be added while the server runs: the port is bound long
    before the model is loaded, and until then their callers get UNAVAILABLE."""

    def __init__(self, methods: Collection[str], interceptor: Interceptor) -> None:
        """methods: those to come, as /polyseme.v1.EncoderService/Embed"""
        self._expected = methods
        self._interceptor = interceptor
        self._handlers: dict[str, Any] = {}

    def add(self, register: Register, servicer: object) -> None:
        """Answer the methods of `servicer` from now on."""
        register(servicer, _Collected(self._put))

    def service(self, handler_call_details: Any) -> Any:
        """The handler for a call, None for a method that does not exist."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None and not self._handlers and method in self._expected:
            return self._interceptor.wrap(method, _UNLOADED)
        return handler

    def _put(self, method: str, handler: Any) -> None:
        self._handlers[method] = self._interceptor.wrap(method, handler)


class _Collected:
    """What generated code takes for a server when it registers a servicer."""

    def __init__(self, put: Callable[[str, Any], None]) -> None:
        self._put = put

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Older generated code calls this as well; the names come through the other."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        for name, handler in handlers.items():
            self._put(f"/{service}/{name}", handler)


async def _never(requests: Any, context: Any) -> AsyncIterator[Any]:
    """Admission refuses before this is reached, unless the model was loaded in between."""
    await context.abort(StatusCode.UNAVAILABLE, "the model was just loaded; call again")
    yield


# A stream of raw bytes both ways is, on the wire, every kind of method.
_UNLOADED = grpc.stream_stream_rpc_method_handler(_never, request_deserializer=bytes)
