# Everything runs in a virtual environment of its own, made on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-ray test-deployment check-runtimes lint format types check bench bench-versus bench-flower bench-scale bench-unlearning bench-certified clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(READY)  ## create .venv and install the package with its development tools

demo: $(READY)  ## run the quickstart: 20 nodes learn digits, one leaves, the network forgets with a certificate
	$(BIN)/fedunlearn run simulations/quickstart.toml

test: $(READY)  ## run the default test suite (under 8 minutes on 2 cores)
	$(BIN)/python -m pytest -n auto -m "not slow and not ray and not deployment"

test-slow: $(READY)  ## run the slow checks on real data (FEDUNLEARN_DATA must name a folder with femnist.npz)
	$(BIN)/python -m pytest -m "slow and not ray and not deployment"

test-ray: $(READY)  ## run `flwr run .` on Flower's simulation runtime (installs the extra [ray])
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ray]'
	$(BIN)/python -m pytest -m ray

test-deployment: $(READY)  ## run a SuperLink and SuperNodes on loopback, and kill some; every command of docs/deployment.md (installs [ray]; about half an hour)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ray]'
	$(BIN)/python -m pytest -m deployment

check-runtimes: $(READY)  ## compare the bits of one process, Ray and a deployment with TLS (installs [ray]; about half an hour)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ray]'
	$(BIN)/python -m benchmarks.runtimes

lint: $(READY)  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## apply style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## check types
	$(BIN)/mypy

check: lint types test  ## everything that must be green before a commit

bench: $(READY)  ## measure client updates per second: small CNN, perceptron, softmax
	$(BIN)/python -m benchmarks.yardstick --json
	$(BIN)/python -m benchmarks.yardstick --json --model mlp
	$(BIN)/python -m benchmarks.yardstick --json --model softmax

bench-versus: $(READY)  ## compare with the bare training step and with Flower on Ray (installs the extra [ray])
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ray]'
	$(BIN)/python -m benchmarks.versus
	$(BIN)/python -m benchmarks.versus --model mlp
	$(BIN)/python -m benchmarks.versus --model softmax

bench-flower: $(READY)  ## the yardstick through `flwr run` and plain Flower, in turn (installs the extra [ray])
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ray]'
	$(BIN)/python -m benchmarks.flower_runtime

bench-scale: $(READY)  ## measure thousands of writers and a hundred thousand nodes (ten minutes, 8 GB)
	$(BIN)/python -m benchmarks.scale --case nodes-100000
	$(BIN)/python -m benchmarks.scale --case femnist-3500
	$(BIN)/python -m benchmarks.scale --case nodes-3200
	$(BIN)/python -m benchmarks.scale --case spectrum

bench-unlearning: $(READY)  ## measure what each certified method takes against retraining, and a stream of fifty requests
	$(BIN)/python -m benchmarks.unlearning --stream 50

bench-certified: $(READY)  ## compare all certified methods on one task, in one table (about three minutes on 2 cores)
	$(BIN)/python -m benchmarks.certified

clean:  ## remove the environment and caches, keep runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
