# `make` or `make help` lists the targets. Another interpreter: make setup PYTHON=/path/to/python3.11
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13; do $$each -c '' 2> /dev/null && echo $$each && break; done)
# Another build of torch: make setup TORCH=cpu, TORCH=cuda; without a choice, cuda where there is an NVIDIA GPU
TORCH ?= $(shell nvidia-smi > /dev/null 2>&1 && echo cuda || echo cpu)
SIZE_cpu := about 0.7 GB to fetch and 2.4 GB on the disk, with the CPU build of torch
SIZE_cuda := about 3 GB to fetch and 7 GB on the disk, with the CUDA build of torch
BIN := .venv/bin
# What `make clean` leaves in .glassbox: journals, finished trials, the studies beside the study, the report before this one
KEPT := journals trials demo label-curve tuning earlier_report
PIP := $(BIN)/python -m pip install --disable-pip-version-check

export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
# Compiled modules save seconds at the start of every trial
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo plan preflight study study-scratch test test-slow long torture lint types params docs ui archive bench clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  %-13s %s\n", $$1, $$2}'

setup: .venv/ready ## Make .venv with the pinned dependencies

# The registry's own torch is the CUDA build on Linux: the CPU build is taken from PyTorch's index, where it is reached
.venv/ready: requirements.txt requirements-hashes.txt
	@[ -n "$(PYTHON)" ] || { echo "make: no Python 3.11, 3.12 or 3.13 here; name one: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version): $(SIZE_$(TORCH))"
	$(PYTHON) -m venv .venv
	@[ $(TORCH) != cpu ] || $(BIN)/python -c "import torch" 2> /dev/null || \
		$(PIP) --no-deps --retries 0 --index-url https://download.pytorch.org/whl/cpu "$$(grep '^torch==' requirements.txt)" || \
		echo "PyTorch's index is not reached; the registry's own build of torch is taken"
	$(PIP) --constraint requirements.txt "$$(grep '^torch==' requirements.txt)"
	$(PIP) --require-hashes --no-deps -r requirements-hashes.txt
	touch $@

demo: setup ## Try the whole path in two minutes: two groups, two seeds, a report in .glassbox/demo
	python src/demo.py

plan: setup ## Say what the study will need: disk, memory, time; refuse what cannot fit
	python src/plan.py

preflight: setup ## Go the whole path on two batches, to find what would kill a long run
	python src/preflight.py

study: setup ## Run what changed of the study and compare its groups
	dvc repro

study-scratch: setup ## Run the study of a student from random weights, signals at all positions
	dvc exp run -S scale=scratch

test: setup ## Run the tests that take a few seconds each
	pytest -m "not slow" -n 2 --dist loadfile

test-slow: setup ## Run the slow tests
	pytest -m "slow and not long" -n 2 --dist loadfile --durations 30

long: setup ## Run the full counts: 30 kills of a study, every Ray fault, the team's stack
	.ci/services
	GLASSBOX_KILLS=30 pytest -m "long or slow" -n 2 --dist loadfile

torture: setup ## Inject every fault of docs/reliability.md, and count what became of it; HOURS=8 goes on
	python benchmarks/torture.py $(if $(HOURS),--hours $(HOURS),--write)

lint: setup ## Check format and lint
	ruff format --check .
	ruff check .

types: setup ## Check types
	pyright --pythonpath $(BIN)/python

params: setup ## Compose conf/ into params.yaml
	python src/params.py

docs: setup ## Write docs/settings.md from the settings' models, conf/ and dvc.yaml
	python src/settings.py --markdown > docs/settings.md.new
	mv docs/settings.md.new docs/settings.md

ui: setup ## Open MLflow's pages on every run
	@PYTHONPATH=src python -c "from glassbox.tracking import runs_page; print('The trials:', runs_page())"
	mlflow ui

archive: setup ## Name the verified snapshot and push it to the DVC remote
	python src/archive.py

bench: setup benchmarks/peers/.venv/ready ## Measure speed and memory beside plain training and the peers (20 minutes)
	benchmarks/peers/.venv/bin/python benchmarks/bench.py

benchmarks/peers/.venv/ready: benchmarks/peers/requirements.txt .venv/ready
	$(BIN)/python benchmarks/peers/install.py
	touch $@

clean: ## Remove caches and unfinished work; results, finished trials, the demo, .venv and mlflow.db stay
	find .glassbox -mindepth 1 -maxdepth 1 $(foreach each,$(KEPT),! -name $(each)) -exec rm -rf {} + 2>/dev/null || true
	rm -rf .pytest_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
