# `make help` lists the targets. Each sets up .venv by itself; nothing else is needed than
# python3 (3.11 to 3.13), git and make.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
.DEFAULT_GOAL := help

$(READY): requirements/dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "evp needs Python 3.11, 3.12 or 3.13; none was found on PATH" >&2; exit 2; }
	@echo "setting up .venv with $$($(PYTHON) --version)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: help up test test-slow lint type format cov docs lock faults faults-slice faults-suite
.PHONY: bench bench-quick bench-growth bench-queries bench-slow bench-store api-cases fuzz clean
.PHONY: bench-outage

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(READY) ## run everything on this machine and send 10,000 events through it; Ctrl-C ends it
	@$(BIN)/evp up --demo 10000

# Tests wait for engines and processes most of their time: more of them than cores is right.
TEST_PROCESSES ?= 4

TEST = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

test: $(READY) ## run the tests (engines come from PATH or from wheels; no Docker needed)
	@$(TEST) -m "not slow"

test-slow: $(READY) ## run those that take many seconds each: crashes at every point, outages, fuzzed routes
	@$(TEST) -m slow

lint: $(READY) ## check style and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(READY) ## check types
	@$(BIN)/mypy

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix-only --quiet . ; $(BIN)/ruff format .

cov: $(READY) ## run the tests and report what they don't cover (at least 90 % of lines and branches)
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -q && $(BIN)/coverage combine -q && $(BIN)/coverage report

docs: $(READY) ## write docs/SETTINGS.md, docs/CLI.md and docs/METRICS.md anew from the code
	@$(BIN)/python scripts/docs.py

SEED ?= $(shell date +%s)

faults: $(READY) ## ten minutes of random faults under load, then the proof that nothing was lost (SEED=n)
	@$(BIN)/python -m tests.faults.run --seconds 600 --events-per-s 4000 --seed $(SEED)

faults-slice: $(READY) ## one minute of it (SEED=n)
	@$(BIN)/python -m tests.faults.run --seconds 60 --events-per-s 2000 --seed $(SEED)

faults-suite: $(READY) ## each fault by itself, at full size (about an hour; names: -k)
	@$(BIN)/python -m pytest -s tests/faults

bench: $(READY) ## compare evp with its store alone and with other stacks, for docs/BENCHMARKS.md (wrk; 20 minutes)
	@$(BIN)/python scripts/bench/run.py --write

bench-quick: $(READY) ## one short round of it: evp, its store alone, FastAPI (wrk; two minutes)
	@$(BIN)/python scripts/bench/run.py --rounds 1 --seconds 1 --only fastapi

STORED ?= 1000000

bench-growth: $(READY) ## what an event costs as things grow (three minutes; STORED=10000000: ten more)
	@$(BIN)/python scripts/bench/growth.py --write --stored-max $(STORED)

OUTAGES ?= --rounds 3

bench-outage: $(READY) ## what an outage of the store does, beside what scripts/capacity.py expects (seven minutes)
	@$(BIN)/python scripts/bench/outage.py $(OUTAGES)

QUERIES ?= --stored 1000000 --eps 10000 --seconds 30

bench-queries: $(READY) ## what questions cost while events come in (QUERIES="--stored 10000000 --eps 20000")
	@$(BIN)/python scripts/bench/queries.py $(QUERIES)

bench-slow: $(READY) ## what 500 clients that send a byte a second do to the others
	@$(BIN)/python scripts/bench/slow_clients.py

STORE_VERSION := 0.5.3-beta.193

bench-store: ## build the embedded store as a compiled program, for the bench to use (cargo; some minutes)
	@test -x .bench/store/bin/secantusd-rs || cargo install secantus-mdb --version $(STORE_VERSION) \
		--ignore-rust-version --root .bench/store

API_EXAMPLES ?= 400

api-cases: $(READY) ## some 6,000 requests made of the OpenAPI document: server and document agree
	@EVP_API_EXAMPLES=$(API_EXAMPLES) $(BIN)/python -m pytest -q tests/e2e/test_openapi.py

FUZZ_S ?= 300

fuzz: $(READY) ## fuzz the accept path, guided by coverage; the corpus grows (FUZZ_S=seconds)
	@test -d .bench/fuzz || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--target .bench/fuzz -r tests/fuzz/requirements.txt
	@PYTHONPATH=.bench/fuzz:. $(BIN)/python tests/fuzz/run.py -max_total_time=$(FUZZ_S) -max_len=4096 \
		-artifact_prefix=tests/fuzz/

lock: $(READY) ## pin the newest allowed versions with their hashes
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --prerelease if-necessary-or-explicit \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade \
		--extra embedded --extra dev pyproject.toml -o requirements/dev.lock
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --prerelease if-necessary-or-explicit \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade \
		--extra embedded pyproject.toml -o requirements/runtime.lock

clean: ## remove what can be made again (not the data in .evp)
	@rm -rf .venv .bench .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov build dist
