# `make` or `make help` lists the targets. Needs Python 3.11 or newer and a package registry, nothing else.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help install lock test test-all lint format demo clean

VENV := .venv
BIN := $(VENV)/bin
# Named after the content of both files, so that a changed time stamp installs nothing again.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml requirements/develop.lock | cksum | cut -d ' ' -f 1)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# hatchling and editables build the package itself, which then fetches nothing.
LOCK := { sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml; echo editables; } | uv pip compile --quiet \
    --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml - $(UPGRADE)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup
DEMO := runs/demo

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## .venv with the pinned versions (about 5 GB, a few minutes, once)

$(STAMP): | pyproject.toml requirements/develop.lock
	@if [ ! -x $(BIN)/python ]; then \
	    found=""; \
	    for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	        if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            found="$$candidate"; break; \
	        fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "error: t2f-dist needs Python 3.11 or newer; python3 here is: $$(python3 --version 2>&1)." \
	             "Install one, or name it: make install PYTHON=/path/to/python3.12" >&2; \
	        exit 1; \
	    fi; \
	    echo "making $(VENV) with $$($$found --version)"; \
	    "$$found" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
	fi
	@echo "installing the pinned versions into $(VENV) (about 5 GB, once)"
	$(PIP) --require-hashes --no-deps -r requirements/develop.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-*
	@touch $@

lock:  ## write requirements/*.lock anew for pyproject.toml, with uv; UPGRADE=--upgrade takes newer versions
	$(LOCK) --extra test --extra lint -o requirements/develop.lock
	$(LOCK) --extra s3 --extra gcs --extra http --extra hf -c requirements/develop.lock -o requirements/run.lock

test: install  ## the fast tests: on the CPU, no network, a few minutes
	$(PYTEST) -m 'not slow'

test-all: install  ## the slow tests too
	$(PYTEST)

lint: install  ## ruff and pyright over the whole tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: install  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: install  ## draw a corpus, shard it, train two ranks on the CPU, sample, measure (about 7 minutes)
	@[ -f $(DEMO)/corpus/corpus.json ] || $(BIN)/t2f-dist demo --out $(DEMO)/corpus --num 12000 --resolution 32
	@$(BIN)/t2f-dist shard shards/recipes/portraits.yaml --faces $(DEMO)/corpus/faces \
	    --captions $(DEMO)/corpus/captions.jsonl --speech $(DEMO)/corpus/speech.csv --out $(DEMO)/shards
	$(BIN)/accelerate launch --config_file launch/cpu.yaml -m t2f_dist.train --config configs/demo.yaml
	@$(BIN)/t2f-dist evaluate $(DEMO)/run --out $(DEMO)/agreement.json
	@$(BIN)/t2f-dist sample $(DEMO)/run --captions configs/demo_captions.txt --out $(DEMO)/faces.png
	@echo "faces for captions of its own: $(DEMO)/faces.png; over time: $(DEMO)/run/grids/"

clean:  ## remove caches and the demo; .venv and other runs stay
	rm -rf $(DEMO) .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
