import contextlib
import resource

import pytest
import torch

from encoder.training.atomic import NotWritten, write_atomically
from encoder.training.checkpoints import CheckpointRefused, load_checkpoint, save_checkpoint

OURS = {"recipe_sha256": "a" * 64, "data_sha256": "b" * 64}


@contextlib.contextmanager
def small_disk():
    """Files above 4 KiB fail as they do on a full disk: the kernel refuses the write. Nothing of
    the test runner's may be written meanwhile: its own output may be such a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_reads_back_bit_by_bit(tmp_path):
    weights = torch.randn(100)
    save_checkpoint(tmp_path / "c.pt", {**OURS, "weights": weights})

    assert torch.equal(load_checkpoint(tmp_path / "c.pt", **OURS)["weights"], weights)
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_a_disk_that_fills_leaves_the_last_checkpoint_intact_and_says_so(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {**OURS, "weights": torch.ones(10)})

    refused = pytest.raises(NotWritten, match=r"c\.pt was not written .*untouched")
    with refused, small_disk():
        save_checkpoint(path, {**OURS, "weights": torch.zeros(100_000)})

    assert torch.equal(load_checkpoint(path, **OURS)["weights"], torch.ones(10))
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({**OURS, "recipe_sha256": "c" * 64}, "belongs to another recipe .*--out"),
        ({**OURS, "data_sha256": "c" * 64}, "was trained on other text"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused_with_what_to_do(tmp_path, given, why):
    save_checkpoint(tmp_path / "c.pt", OURS)

    with pytest.raises(CheckpointRefused, match=why):
        load_checkpoint(tmp_path / "c.pt", **given)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_or_missing_checkpoint_is_named(tmp_path, content):
    if content is not None:
        write_atomically(tmp_path / "c.pt", content)

    with pytest.raises(CheckpointRefused, match=r"c\.pt"):
        load_checkpoint(tmp_path / "c.pt", **OURS)
