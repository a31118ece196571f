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

.PHONY: help up test test-unit test-integration test-e2e test-slow test-cluster lint type format cov docs lock
.PHONY: faults faults-slice faults-suite soak power wheel try-wheel sbom audit lint-deploy
.PHONY: image scan-image compose try-compose
.PHONY: rolling bench bench-quick bench-growth bench-queries bench-slow bench-store bench-mongo bench-outage
.PHONY: cluster sim api-cases fuzz mutants clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(READY) ## run everything on this machine and send 10,000 events through it; Ctrl-C ends it
	@$(BIN)/evp up --demo 10000

# Tests wait for engines and processes most of their time: more of them than cores is right.
TEST_PROCESSES ?= 4

TEST = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

test: $(READY) ## run the tests (engines come from PATH or wheels; from containers where Docker runs, unless EVP_TEST_DOCKER=0)
	@$(TEST) -m "not slow and not cluster"

test-unit: $(READY) ## those of them that need no engine, and the rules of the house
	@$(TEST) -m "not slow and not cluster" tests/unit tests/tidy

test-integration: $(READY) ## those against engines; EVP_REQUIRE_DOCKER=1: in containers
	@$(TEST) -m "not slow and not cluster" tests/integration

test-e2e: $(READY) ## those of the command, the server and its pages from outside
	@$(TEST) -m "not slow and not cluster" tests/e2e

test-slow: $(READY) ## run those that take many seconds each: crashes at every point, outages, fuzzed routes
	@$(TEST) -m slow

test-cluster: $(READY) ## run those on clusters and Sentinels of their own, with TLS and users with least rights
	@$(TEST) -m cluster

lint: $(READY) ## check style and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(READY) ## check types
	@$(BIN)/mypy

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix-only --quiet . ; $(BIN)/ruff format .

cov: $(READY) ## run the tests and report what they don't cover (at least 90 % of lines and branches)
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -q && $(BIN)/coverage combine -q && $(BIN)/coverage report

docs: $(READY) ## write anew what docs/ and deploy/ take from the code
	@$(BIN)/python scripts/docs.py
	@$(BIN)/python scripts/deploy.py

SEED ?= $(shell date +%s)

faults: $(READY) ## ten minutes of random faults under load, then the proof that nothing was lost (SEED=n)
	@$(BIN)/python -m tests.faults.run --seconds 600 --events-per-s 4000 --seed $(SEED)

faults-slice: $(READY) ## one minute of it (SEED=n)
	@$(BIN)/python -m tests.faults.run --seconds 60 --events-per-s 2000 --seed $(SEED)

faults-suite: $(READY) ## each fault by itself, at full size (about an hour; names: -k)
	@$(BIN)/python -m pytest -s tests/faults

SOAK ?= --seconds 3600 --events-per-s 5000
SOAK_STORE = $(addprefix --store ,$(wildcard .bench/store/bin/secantusd-rs))

soak: $(READY) ## an hour of load, a fault each minute: nothing grows, nothing is lost (SOAK="--seconds 600", SEED=n; make bench-store first)
	@$(BIN)/python -m tests.faults.soak_run --seed $(SEED) $(SOAK_STORE) $(SOAK)

CUTS ?= 5

power: $(READY) ## cut the power under load: what was answered is there, and two controls lose (CUTS=50)
	@$(BIN)/python -m tests.faults.power_run --seed $(SEED) --cuts $(CUTS)

CLUSTER ?= --seconds 300 --events-per-s 20000

cluster: $(READY) ## kill a cluster's primaries in turn under load: nothing is lost (CLUSTER="--no-replicas": a tail is, and named)
	@$(BIN)/python -m tests.faults.cluster_run --seed $(SEED) $(CLUSTER)

SWITCHES ?= 20
BATCH ?= 5

SCHEDULES ?= 20000

sim: $(READY) ## simulate 20,000 deployments on a virtual clock, each with faults of its own (SCHEDULES=n SEED=n)
	@$(BIN)/python -m tests.simulation --schedules $(SCHEDULES) --seed $(SEED)

rolling: $(READY) ## replace servers under 5,000 events/s: no request fails (SWITCHES=20 BATCH=5)
	@EVP_ROLLING_SWITCHES=$(SWITCHES) EVP_ROLLING_BATCH=$(BATCH) \
		$(BIN)/python -m pytest -q -s tests/e2e/test_rolling.py

bench: $(READY) ## compare evp with its store alone and with other stacks, for docs/BENCHMARKS.md (wrk; 20 minutes)
	@$(BIN)/python scripts/bench/run.py --write

bench-quick: $(READY) ## one short round of it: evp, its store alone, FastAPI (wrk; two minutes)
	@$(BIN)/python scripts/bench/run.py --rounds 1 --seconds 1 --only fastapi

bench-mongo: $(READY) ## the same on a MongoDB replica set in a container (wrk, Docker)
	@EVP_REQUIRE_DOCKER=1 $(BIN)/python scripts/with_store.py \
		$(BIN)/python scripts/bench/run.py --rounds 1 --seconds 1 --only fastapi

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
		--require-hashes --no-deps --target .bench/fuzz -r tests/fuzz/requirements.txt
	@PYTHONPATH=.bench/fuzz:. $(BIN)/python tests/fuzz/run.py -max_total_time=$(FUZZ_S) -max_len=4096 \
		-artifact_prefix=tests/fuzz/

mutants: $(READY) ## plant bugs, one at a time: the tests must catch each (ONLY="3 9": only these)
	@$(BIN)/python -m tests.mutants $(if $(ONLY),--only $(ONLY))

wheel: $(READY) ## build the wheel, into dist
	@rm -rf dist && $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --wheel-dir dist .
	@ls dist

TRIAL := .bench/wheel

try-wheel: wheel ## install the wheel into an empty environment and send 100 events through it
	@rm -rf $(TRIAL) && $(PYTHON) -m venv $(TRIAL)
	@$(TRIAL)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		-r requirements/runtime.lock
	@$(TRIAL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index dist/*.whl
	@$(BIN)/python scripts/try_wheel.py $(TRIAL)

TOOLS := .bench/tools

$(TOOLS)/.ready: requirements/tools.lock
	@rm -rf $(TOOLS) && $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		-r requirements/tools.lock
	@touch $@

sbom: try-wheel $(TOOLS)/.ready ## tell what evp consists of, with licences (CycloneDX), into dist
	@$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/evp.cdx.json $(TRIAL)/bin/python
	@ls dist

audit: $(TOOLS)/.ready ## look for known vulnerabilities in what is locked (asks PyPI)
	@for lock in requirements/*.lock tests/fuzz/requirements.txt; do $(TOOLS)/bin/pip-audit \
		--disable-pip --require-hashes --progress-spinner off --strict -r $$lock || exit 1; done

ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

lint-deploy: $(READY) $(TOOLS)/.ready ## check the files for deployment and the workflows (some tools are built once, where Go is; REQUIRE=1: all of it)
	@$(TOOLS)/bin/hadolint Dockerfile
	@$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	@$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(TOOLS)/bin/zizmor --offline --quiet .github
	@if command -v go >/dev/null; then go run $(ACTIONLINT); \
		else echo "actionlint was left out: it needs go" >&2; exit $${REQUIRE:-0}; fi
	@scripts/lint_deploy_chart.sh

IMAGE ?= evp:dev

image: ## build the container image (Docker; IMAGE=name:tag)
	@docker build --tag $(IMAGE) .

GRYPE := anchore/grype:v0.118.0@sha256:8a93fc48da96bd6ec5981279d099b69de11541dc68fdf222fb9161f8ff284af7

scan-image: image ## look for known vulnerabilities in the image, those that can be mended (Docker)
	@mkdir -p .bench && docker save --output .bench/image.tar $(IMAGE)
	@docker run --rm --volume $(CURDIR)/.bench/image.tar:/image.tar:ro $(GRYPE) \
		docker-archive:/image.tar --only-fixed --fail-on high

COMPOSE := docker compose -f deploy/compose.yaml

compose: ## run everything on a Valkey and a MongoDB of its own, in containers; Ctrl-C ends it (Docker)
	@$(COMPOSE) up --build

try-compose: ## start that, send events through it, verify, and remove it with its data (Docker)
	@sh scripts/try_compose.sh

LOCK = $(BIN)/uv pip compile -q --universal --python-version 3.11 --prerelease if-necessary-or-explicit \
	--generate-hashes --no-emit-index-url --no-annotate --no-header

lock: $(READY) ## pin the newest allowed versions with their hashes
	@$(LOCK) --upgrade --extra embedded --extra dev pyproject.toml -o requirements/dev.lock
	@$(LOCK) --upgrade --extra embedded pyproject.toml -o requirements/runtime.lock
	@$(LOCK) -c requirements/runtime.lock pyproject.toml -o requirements/image.lock
	@$(LOCK) -c requirements/dev.lock --group build -o requirements/build.lock
	@$(LOCK) --upgrade --group tools -o requirements/tools.lock

clean: ## remove what can be made again (not the data in .evp)
	@rm -rf .venv .bench .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov build dist
