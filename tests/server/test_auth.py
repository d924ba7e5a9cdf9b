import hashlib

import pytest

from server.auth import ApiKeys, KeysUnreadable


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# who may call\n\nweb {sha256('k-web')}\nbatch  {sha256('k-batch')}\n")
    return ApiKeys.read(file)


def test_a_key_on_the_list_has_a_name(keys):
    assert keys.name_of("Bearer k-web") == "web"
    assert keys.name_of("bearer k-batch") == "batch"


@pytest.mark.parametrize("header", ["", "k-web", "Bearer", "Bearer k-we", "Basic k-web"])
def test_anything_else_has_none(keys, header):
    assert keys.name_of(header) is None


def test_a_bad_line_is_named_by_number_and_never_quoted(tmp_path):
    file = tmp_path / "keys"
    file.write_text("web k-in-clear\n")

    with pytest.raises(KeysUnreadable) as refusal:
        ApiKeys.read(file)
    assert "line 1" in str(refusal.value)
    assert "k-in-clear" not in str(refusal.value)


def test_a_missing_or_empty_file_keeps_the_server_from_starting(tmp_path):
    with pytest.raises(KeysUnreadable):
        ApiKeys.read(tmp_path / "none")
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(KeysUnreadable):
        ApiKeys.read(tmp_path / "empty")
