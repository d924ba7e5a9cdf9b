#!/bin/bash
# Runs bench/gpu.py on a lent GPU machine without a network (recipes/lent.sh says how it is reached).
#
#   here        bash bench/gpu.sh pack         packages and model; says which parcels there are
#   each call   bash bench/gpu.sh receive 0    there, carrying runs/lent/bench/0; then 1 ...
#   the last    bash bench/gpu.sh receive 4 && bash bench/gpu.sh run     exports, then measures
#   before all  bash bench/gpu.sh rehearse     the measurement on this machine, tiny
#
# onnxruntime-gpu's wheel is 256 MB: unpacked and under xz it is a fifth less, and it travels in
# parts. The table is printed and lies in $OUT/gpu.json. MODEL (a sentence-transformers directory),
# PYTHON_THERE (its version, "3.12"), WORK and PYTHON may be set.
set -euo pipefail
cd "$(dirname "$0")/.."
model=${MODEL:-models/all-minilm-l6-v2}
parcels=runs/lent/bench
shelf=$parcels/shelf
work=${WORK:-/tmp/lent/bench}
# Of what the server needs, what such a machine was found to have; the rest travels.
there="numpy regex tokenizers huggingface-hub packaging click h11 anyio idna sniffio flatbuffers
  sympy mpmath coloredlogs humanfriendly fsspec filelock pyyaml tqdm requests httpx hf-xet"

packages() { # the rest, with what it needs in turn
  .venv/bin/python - $there << 'END'
import importlib.metadata as metadata, re, sys, tomllib

def name(text):
    return re.match(r"[\w.-]+", text).group().lower().replace("_", "-")

todo = [r for r in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]]
seen = {*sys.argv[1:], "polyseme", "onnxruntime"}
while todo:
    package = name(todo.pop())
    if package not in seen:
        seen.add(package)
        print(package)
        todo += [r for r in metadata.requires(package) or () if "extra ==" not in r and "_platform ==" not in r and "python_version <" not in r]
END
}

case ${1:-help} in
  pack)
    rm -rf "$shelf" && mkdir -p "$shelf/site"
    bash recipes/lent.sh wheels "$parcels/wheels" $(packages)
    for wheel in "$parcels"/wheels/*.whl; do unzip -q -o "$wheel" -d "$shelf/site"; done
    # TensorRT is another runtime, and most of the tools are for other models: not asked for.
    rm -rf "$shelf"/site/onnxruntime/{tools,datasets,transformers/models} \
      "$shelf"/site/onnxruntime/capi/libonnxruntime_providers_tensorrt.so
    .venv/bin/python -m encoder.training.lent halve "$model" "$shelf/model"
    .venv/bin/python -m encoder.training.lent pack-folder "$shelf" --out "$parcels"
    ;;
  receive)
    "${PYTHON:-python3}" -m encoder.training.lent receive "$parcels/$2" "$work"
    ;;
  run)
    export PYTHONPATH=$work/site:$PWD:$PWD/clients/python
    python=${PYTHON:-python3}
    if [ ! -d "$work/imported/onnx" ]; then
      rm -rf "$work/imported"
      $python -m encoder.command import "$work/model" --out "$work/imported" --name "$(basename "$model")"
      $python -m encoder.command export "$work/imported" --precision "${PRECISION:-fp16}"
    fi
    nvidia-smi 2> /dev/null || true
    $python bench/gpu.py --model "$work/imported" --json "${OUT:?folder for results}/gpu.json" ${2:-}
    ;;
  rehearse)
    .venv/bin/python bench/gpu.py --model "$model" --rehearse
    ;;
  *)
    sed -n '2,/^set/p' "$0" | sed 's/^# \{0,1\}//; $d'
    ;;
esac
