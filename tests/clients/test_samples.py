"""The sample corpus that the demo indexes."""

import json
from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "clients" / "samples"


def test_the_sample_corpus_is_3000_different_documents_with_their_licence():
    file = SAMPLES / "wikipedia.jsonl"
    documents = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    assert file.stat().st_size < 2 * 2**20
    assert len({d["id"] for d in documents}) == len({d["text"] for d in documents}) == 3000
    assert all(d["text"] and d["metadata"]["title"] for d in documents)
    assert "ShareAlike 3.0" in (SAMPLES / "LICENSE.md").read_text()
