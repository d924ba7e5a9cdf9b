import pytest
from pydantic import ValidationError

from server.settings import Settings, host_and_port, is_loopback, unknown_variables


def test_the_defaults_are_loopback_and_valid():
    settings = Settings()

    assert is_loopback(host_and_port(settings.address)[0])
    assert settings.http_address == ""


def test_an_environment_variable_sets_a_field(monkeypatch):
    monkeypatch.setenv("POLYSEME_BATCH_TOKENS_MAX", "123")

    assert Settings().batch_tokens_max == 123
    assert Settings(batch_tokens_max=5).batch_tokens_max == 5


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().address = "127.0.0.1:1"


def test_every_field_says_what_it_does():
    for name, field in Settings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.1.2.3:1", "example.org:1"])
def test_beyond_loopback_it_takes_tls_or_the_word_insecure(address, tmp_path):
    with pytest.raises(ValidationError, match="not loopback"):
        Settings(address=address)
    assert Settings(address=address, insecure=True).address == address
    secured = Settings(address=address, tls_cert=tmp_path / "c", tls_key=tmp_path / "k")
    assert secured.address == address


def test_the_http_side_is_never_secured_by_the_grpc_sides_tls(tmp_path):
    with pytest.raises(ValidationError, match="http_address"):
        Settings(http_address="0.0.0.0:9090", tls_cert=tmp_path / "c", tls_key=tmp_path / "k")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.8.8.8:0"])
def test_loopback_has_several_names(address):
    assert Settings(address=address).address == address


@pytest.mark.parametrize(
    "values",
    [
        {"address": "localhost"},
        {"address": "localhost:99999"},
        {"tls_cert": "c"},
        {"tls_client_ca": "c"},
        {"inputs_max": 10, "queue_texts_max": 9},
        {"threads": -1},
        {"precision": "int4"},
        {"batch_tokens_max": 0},
        {"no_such_setting": 1},
    ],
)
def test_settings_that_cannot_work_are_refused(values):
    with pytest.raises(ValidationError):
        Settings(**values)


def test_a_misspelt_variable_is_found():
    environment = {
        "POLYSEME_ADRESS": "x",
        "POLYSEME_ADDRESS": "y",
        "PATH": "z",
        "polyseme_model": "m",
    }

    assert unknown_variables(environment) == ["POLYSEME_ADRESS"]


def test_the_callers_variables_are_not_the_servers():
    assert unknown_variables({"POLYSEME_API_KEY": "secret"}) == []
