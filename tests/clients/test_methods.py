"""The table of RPCs against the services themselves."""

import importlib

import pytest

from polyseme import methods

MODULES = [
    "encoder",
    "compare",
    "attention",
    "language_model",
    "sense",
    "translation",
    "collection",
    "document",
    "search",
    "admin",
]
TABLE = {
    m.path: m for m in vars(methods).values() if isinstance(m, methods.Method) and "poly" in m.path
}
CHANGES = {
    "CreateCollection",
    "UpdateCollection",
    "DeleteCollection",
    "CreateSnapshot",
    "RestoreSnapshot",
    "CompactCollection",
    "Drain",
}


@pytest.mark.parametrize("name", MODULES)
def test_every_rpc_is_in_the_table_with_its_messages(name):
    module = importlib.import_module(f"polyseme.v1.{name}_pb2")
    for service in module.DESCRIPTOR.services_by_name.values():
        for rpc in service.methods:
            method = TABLE[f"/{service.full_name}/{rpc.name}"]
            assert method.request.DESCRIPTOR is rpc.input_type
            assert method.answer.DESCRIPTOR is rpc.output_type


def test_what_changes_something_without_a_request_id_is_never_repeated():
    assert {m.name for m in TABLE.values() if not m.repeatable} == CHANGES


def test_the_health_messages_are_those_of_the_standard():
    from grpc_health.v1 import health_pb2

    ours = methods.HEALTH_CHECK.request(value="polyseme.v1.SearchService")
    theirs = health_pb2.HealthCheckRequest(service="polyseme.v1.SearchService")
    assert ours.SerializeToString() == theirs.SerializeToString()

    serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
    assert methods.HEALTH_CHECK.answer.FromString(serving.SerializeToString()).value == 1
