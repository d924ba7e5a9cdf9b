import hashlib

import pytest

from server.auth import (
    KEY_PREFIX,
    KEYS_MAX,
    ApiKeys,
    KeysUnreadable,
    Scope,
    append,
    new_key,
)


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def keys(file):
    lines = f"web {sha256('k-web')} read\nbatch  {sha256('k-batch')}  read,write 500\n"
    file.write_text(f"# who may call\n\n{lines}")
    return ApiKeys.read(file)


def test_a_key_on_the_list_is_known_with_its_scopes_and_its_rate(keys):
    web, batch = keys.find(["Bearer k-web"]), keys.find(["bearer k-batch"])

    assert (web.name, web.scopes, web.tokens_per_s) == ("web", {Scope.READ}, None)
    assert (batch.name, batch.scopes) == ("batch", {Scope.READ, Scope.WRITE})
    assert batch.tokens_per_s == 500


@pytest.mark.parametrize("header", ["", "k-web", "Bearer", "Bearer k-we", "Basic k-web"])
def test_anything_else_is_not(keys, header):
    assert keys.find([header]) is None


def test_of_two_headers_neither_counts(keys):
    assert keys.find(["Bearer k-web", "Bearer k-web"]) is None
    assert keys.find([]) is None


def test_every_hash_is_compared_in_constant_time(keys, monkeypatch):
    compared = []

    def compare(known, given):
        compared.append(known)
        return known == given

    monkeypatch.setattr("server.auth.hmac.compare_digest", compare)
    for header in ("Bearer k-web", "Bearer nobody"):
        compared.clear()
        keys.find([header])
        assert compared == [key.sha256 for key in keys.keys]


@pytest.mark.parametrize(
    "line",
    [
        "web k-in-clear read",
        f"web {sha256('k')}",
        f"web {sha256('k')} kinclear",
        f"web {sha256('k')} read,",
        f"web {sha256('k')} read 0",
        f"web {sha256('k')} read k-in-clear",
    ],
)
def test_a_bad_line_is_named_by_number_and_never_quoted(file, line):
    file.write_text(f"# one\n{line}\n")

    with pytest.raises(KeysUnreadable, match="line 2") as refusal:
        ApiKeys.read(file)
    assert "in-clear" not in str(refusal.value)
    assert "kinclear" not in str(refusal.value)


@pytest.mark.parametrize(
    "lines",
    [
        "# nobody",
        f"web {sha256('a')} read\nweb {sha256('b')} read",
        f"web {sha256('a')} read\nother {sha256('a')} write",
        "\n".join(f"k{n} {sha256(str(n))} read" for n in range(KEYS_MAX + 1)),
    ],
)
def test_a_file_that_cannot_be_meant_keeps_the_server_from_starting(file, lines):
    with pytest.raises(KeysUnreadable):
        ApiKeys.read(file)
    file.write_text(lines)
    with pytest.raises(KeysUnreadable):
        ApiKeys.read(file)


def test_a_new_key_has_256_random_bits_and_comes_in_by_its_line_alone(file):
    secret, key = new_key("web", [Scope.WRITE, Scope.READ], 7)
    other, _ = new_key("web", [Scope.READ], None)
    append(file, key)

    assert secret != other
    assert len(secret) == len(KEY_PREFIX) + 43  # 32 bytes in base 64
    assert file.read_text() == f"web {sha256(secret)} read,write 7\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert ApiKeys.read(file).find([f"Bearer {secret}"]) == key


def test_a_name_that_is_taken_changes_nothing_in_the_file(file):
    file.write_text(f"web {sha256('a')} read")
    append(file, new_key("batch", [Scope.READ], None)[1])
    before = file.read_text()

    with pytest.raises(KeysUnreadable, match="same name"):
        append(file, new_key("web", [Scope.READ], None)[1])

    assert file.read_text() == before
    assert [key.name for key in ApiKeys.read(file).keys] == ["web", "batch"]


def test_neither_a_key_nor_its_hash_shows_in_a_repr(keys):
    for secret in ("k-web", sha256("k-web"), repr(bytes.fromhex(sha256("k-web")))):
        assert secret not in repr(keys)
