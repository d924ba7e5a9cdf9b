#!/bin/bash
# Trains a recipe on a lent GPU machine: half an hour, reached only by calls that carry the
# repository and at most 64 MiB there and a few files back, with no network of its own.
#
#   here         bash recipes/lent.sh pack         cleans, compresses; says which parcels there are
#   each call    bash recipes/lent.sh receive 0    there, carrying runs/lent/polyseme-m/0; then 1 ...
#   text there   bash recipes/lent.sh receive 2 && bash recipes/lent.sh visit    training begins
#   the last     bash recipes/lent.sh receive 3 last && bash recipes/lent.sh visit    the teacher
#   and then     bash recipes/lent.sh visit        until it says "pipeline: done"
#   here again   bash recipes/lent.sh collect FOLDER...    of what came back; then as it says
#   before all   bash recipes/lent.sh rehearse     all of it on this machine, tiny
#
# A visit gives back one result into $OUT: what the last checkpoint has, then the pretrained model,
# then the one with sentence vectors. If `pack` finds the repository too large, move models/ aside.
# RECIPE, TEXT, TEACHER, MINUTES (of training, from the first visit), WAIT_S (of one visit), WORK
# (a folder there that outlives a call), PYTHON, OPTIONS (of pretrain) and PYTHON_THERE (the other
# machine's version, "3.12") may be set; HARDWARE says on the card what it was.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$(basename "${RECIPE:-recipes/polyseme-m.toml}" .toml)
parcels=runs/lent/$name
work=${WORK:-/tmp/lent/$name}

here() { # the project's own Python
  "${PYTHON:-.venv/bin/python}" -m encoder.training.lent "$@"
}

there() { # the machine's Python, with the packages that it lacked
  PYTHONPATH=$work/site:. "${PYTHON:-python3}" -m encoder.training.lent "$@"
}

# What such a machine was found to lack of what training imports; torch and the like it has.
packages="pydantic pydantic-core pydantic-settings annotated-types typing-inspection
  typing-extensions python-dotenv"

wheels() { # FOLDER PACKAGE...: in the versions installed here, for the other machine's Python
  local folder=$1 package
  shift
  mkdir -p "$folder"
  for package in "$@"; do
    .venv/bin/python -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" \
      --python-version "${PYTHON_THERE:-3.12}" --implementation cp \
      $(printf -- '--platform manylinux_2_%s_x86_64 ' 34 31 28 27 26 24 17 12 5) \
      --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
      "$package==$(.venv/bin/python -c "import importlib.metadata as m; print(m.version('$package'))")"
  done
}

case ${1:-help} in
  wheels)
    wheels "${@:2}"
    ;;
  pack)
    wheels=runs/lent/wheels
    [ -d $wheels ] || wheels $wheels $packages
    here pack --recipe "${RECIPE:-recipes/polyseme-m.toml}" --text "${TEXT:?folder of text}" \
      --cache "${CACHE:-runs/cache}" --teacher "${TEACHER:-models/all-minilm-l6-v2}" \
      --out "$parcels" --wheels $wheels
    ;;
  receive)
    there receive "$parcels/$2" "$work" ${3:+--last}
    if [ ! -d "$work/site" ] && compgen -G "$work/wheels/*.whl" > /dev/null; then
      "${PYTHON:-python3}" -m pip install --quiet --no-index --no-deps --no-compile \
        --no-cache-dir --target "$work/site" "$work"/wheels/*.whl
    fi
    ;;
  visit)
    there visit "$work" "${OUT:?folder for results}" --minutes "${MINUTES:-22}" \
      --wait-s "${WAIT_S:-540}" $(printf -- '--option=%s ' ${OPTIONS:---compiled})
    ;;
  collect)
    shift
    here collect "$@" --out "runs/lent/$name/results"
    results=runs/lent/$name/results
    cat << END
next: polyseme-model import $results/sentences/model --name $name --out models/$name
      polyseme-model export models/$name
      polyseme-model evaluate models/$name --data DIR
      polyseme-model card models/$name --recipe ${RECIPE:-recipes/polyseme-m.toml} \\
        --run "masked language model=$results/pretrained" --run "sentence vectors=$results/sentences" \\
        --teacher sentence-transformers/all-MiniLM-L6-v2 --hardware "${HARDWARE:-one large GPU}"
END
    ;;
  rehearse)
    exec .venv/bin/python -m pytest -s -m slow tests/encoder/training/test_lent.py
    ;;
  *)
    sed -n '2,/^set/p' "$0" | sed 's/^# \{0,1\}//; $d'
    ;;
esac
