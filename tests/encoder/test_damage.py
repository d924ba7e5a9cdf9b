"""Model directories with flipped bits and cut ends: the same vector, or an error that says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# MODEL_VARIANTS=20000 pytest -m slow tests/encoder/test_damage.py
MANY = int(os.environ.get("MODEL_VARIANTS", "3000"))

# In a process of its own: what reads a damaged file may crash or hang. A line for each variant.
JUDGE = """
import json, os, random, shutil, sys
from pathlib import Path
import numpy as np
from encoder.manifest import ModelDamaged, ModelNotFound, Precision
from encoder.runtime import Encoder, PrecisionMissing
from encoder.tokenizer import Truncation

sound, place, count, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def embedded(directory):
    encoder = Encoder.load(directory, precision=Precision.FP32, threads=1)
    texts = encoder.tokenizer.encode(
        ["An apple a day.", ""], tokens_max=encoder.tokens_max, truncation=Truncation.ERROR
    )
    windows = [window for text in texts for window in text.windows]
    encoder.static(np.array([5, 6]))
    return encoder.pooled(windows).tobytes(), encoder.fingerprint().combined

right = embedded(sound)
files = sorted(p.relative_to(sound) for p in sound.rglob("*") if p.is_file() and p.stat().st_size)
for number in range(count):
    rng = random.Random(f"{seed} {number}")
    # polyseme.json half of the time: the other files are compared with what it says
    file = rng.choice(files) if rng.random() < 0.5 else Path("polyseme.json")
    shutil.copytree(sound, place, copy_function=os.link)
    data = bytearray((sound / file).read_bytes())
    where = rng.randrange(len(data))
    kind = rng.choice(["flip", "flip", "flips", "digit", "cut", "empty", "remove"])
    match kind:
        case "flip":
            data[where] ^= 1 << rng.randrange(8)
        case "flips":
            for _ in range(rng.randint(2, 30)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "digit":  # the worst that can be done to JSON: it stays JSON
            digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57] or [where]
            where = rng.choice(digits)
            data[where] = 48 + (data[where] - 48 + rng.randint(1, 9)) % 10
        case "cut":
            del data[where:]
        case "empty":
            data.clear()
    (place / file).unlink()
    if kind != "remove":
        (place / file).write_bytes(data)
    print(json.dumps({"file": str(file), "kind": kind, "where": where}), flush=True)
    try:
        said = "right" if embedded(place) == right else "WRONG"
    except (ModelDamaged, ModelNotFound) as error:
        said = "named" if file.name in str(error) or "polyseme.json" in str(error) else "unnamed"
    except PrecisionMissing:
        said = "refused"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps(said), flush=True)
    shutil.rmtree(place)
"""


pytestmark = pytest.mark.timeout(1800)


def judged(sound, place, count, before=""):
    """[({file, kind, where}, verdict)] of so many variants; `before` is run first."""
    outcome = subprocess.run(
        [sys.executable, "-c", before + JUDGE, str(sound), str(place), str(count), "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=1700, check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert outcome.returncode == 0, (lines[-1:], outcome.stderr[-2000:])
    assert len(lines) == 2 * count
    return list(zip(lines[::2], lines[1::2], strict=True))


@pytest.mark.parametrize("count", [150, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_damaged_model_is_named_and_never_answers_otherwise(filling_directory, tmp_path, count):
    verdicts = judged(filling_directory, tmp_path / "damaged", count)

    good = ("right", "named", "refused")
    assert [one for one in verdicts if one[1] not in good] == []
    assert sum(verdict == "named" for _, verdict in verdicts) > count * 0.9


@pytest.mark.slow
def test_a_model_that_is_not_compared_with_its_checksum_is_found_out(filling_directory, tmp_path):
    blind = "import encoder.manifest as m; m.checksum_of = lambda content: content['checksum']"

    verdicts = judged(filling_directory, tmp_path / "damaged", 400, before=blind)

    assert "WRONG" in [verdict for _, verdict in verdicts]
