# Set-up, demo and checks. `make demo` and `make test` do everything on a fresh machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# cpu or gpu: which build of vLLM, torch and llama.cpp is installed.
DEVICE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
UV_VERSION := 0.13.8

ROOMS := $(notdir $(wildcard src/raymill/*))

# One stamp for each state of what set-up reads: a second `make` finds it and does nothing.
INPUTS := pyproject.toml constraints/$(DEVICE).txt constraints/overrides-$(DEVICE).txt constraints/compressor.txt constraints/llama-cpp.cmake Makefile
STAMP := $(VENV)/.ready-$(DEVICE)-$(shell cat $(INPUTS) 2>/dev/null | sha256sum | cut -c1-12)

# 1: what is compiled runs on other machines too, and what DeepSpeed compiles for one is left to it. For images.
PORTABLE ?=

# uv does not read pip's settings; hand over those a machine may depend on.
ifneq ($(strip $(PIP_FIND_LINKS)),)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
TORCH_BACKEND :=
else
TORCH_BACKEND := $(if $(filter cpu,$(DEVICE)),--torch-backend=cpu,--torch-backend=auto)
endif
ifneq ($(strip $(PIP_INDEX_URL)),)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
# llama.cpp is compiled here, for the GPU where a CUDA compiler is found; without what nothing uses, but in a folder
# with a space in its name, where the setting would fall apart.
LLAMA_CPP := $(if $(word 2,$(CURDIR)),,-DCMAKE_PROJECT_llama_cpp_INCLUDE=$(CURDIR)/constraints/llama-cpp.cmake)
export CMAKE_ARGS ?= $(LLAMA_CPP)$(if $(PORTABLE), -DGGML_NATIVE=OFF)$(if $(filter gpu,$(DEVICE)),$(if $(shell command -v nvcc 2>/dev/null), -DGGML_CUDA=on))

.PHONY: help setup links packages bytecode converter compressor operators demo up down console test-console console-pictures test lint format lock clean bench-peers bench-gateway bench-vllm bench-jobs bench-prefixes bench-reads bench-train bench-evaluate bench-governance bench-code simulate chaos soak

help: ## Show this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv (the other targets do this when needed)

# Git writes a link as a file with the link's target in it where core.symlinks is off, as do some archive tools.
links:
	@for room in src/raymill/*; do test -L $$room || ln -sfn "$$(cat $$room)" $$room; done

$(STAMP): $(INPUTS)
	@$(MAKE) --no-print-directory links packages
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@echo "set-up: bytecode, llama.cpp's converter$(if $(PORTABLE),,, DeepSpeed's CPU operators)"
	@$(MAKE) --no-print-directory -j3 bytecode converter compressor $(if $(PORTABLE),,operators)
	@rm -f $(VENV)/.ready-* && touch $@

# All but our own: an image keeps them as a layer while our files change.
packages:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "set-up: installing packages ($(DEVICE)); the first time compiles llama.cpp, a few minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH_BACKEND) \
	    --override constraints/overrides-$(DEVICE).txt -r constraints/$(DEVICE).txt

# Compiled now, once: where Python may not write bytecode, each process would compile what it imports again.
# Packages hold a few files that are no Python 3.11, which nothing imports; those alone fail.
bytecode:
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib $(ROOMS) || true

# From llama-cpp-python's own source archive.
converter:
	@$(BIN)/python -m raymill.evaluate.fetch_converter

# In a folder apart: it asks for versions that vLLM does not run with.
compressor:
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $(VENV)/compressor -r constraints/compressor.txt

# Compiled once for each machine.
operators:
	@$(BIN)/python -m raymill.train.prewarm

demo: $(STAMP) ## Train, evaluate, quantize, promote and serve a small model, and show what came out
	@$(BIN)/python examples/support/demo.py

up: $(STAMP) ## Start the service in the background
	@$(BIN)/raymill up

down: $(STAMP) ## Stop it
	@$(BIN)/raymill down

CONSOLE := serve/console/web
CONSOLE_CHROMIUM ?= $(shell command -v chromium chromium-browser google-chrome 2>/dev/null | head -1)
NODE_IS_NEW := node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)'

console: $(STAMP) $(CONSOLE)/node_modules/.ready ## Build the web console (needs Node 20.19 or newer)
	@$(BIN)/python -m raymill.serve.console.openapi
	@cd $(CONSOLE) && npm run --silent api && npm run --silent build

$(CONSOLE)/node_modules/.ready: $(CONSOLE)/package-lock.json
	@$(NODE_IS_NEW) 2>/dev/null || { echo "the console is built with Node 20.19 or newer: install it, and npm"; exit 1; }
	@cd $(CONSOLE) && npm ci --ignore-scripts --no-audit --no-fund && touch node_modules/.ready

test-console: ## Check the console, also in a browser (ARGS="test/jobs.test.ts" picks a file)
	@if ! $(NODE_IS_NEW) 2>/dev/null; then echo "test-console: skipped, there is no Node 20.19 or newer"; \
	elif test -z "$(CONSOLE_CHROMIUM)"; then echo "test-console: skipped, there is no chromium"; \
	else $(MAKE) --no-print-directory console && cd $(CONSOLE) && npm run --silent lint && npm test --silent && cd - >/dev/null && \
	    CONSOLE_CHROMIUM=$(CONSOLE_CHROMIUM) $(BIN)/python -m tests.console.stage -- npm --prefix $(CONSOLE) run --silent browser -- $(ARGS); fi

console-pictures: export CONSOLE_PICTURES = $(abspath docs/console)
console-pictures: ## Make the pictures of docs/console.md again
	@$(MAKE) --no-print-directory test-console ARGS=test/pictures.test.ts
	@$(BIN)/python -m tests.console.pictures $(CONSOLE_PICTURES)

test: $(STAMP) ## Run the tests (ARGS="-k words" picks some)
	@$(BIN)/python -m tests.halves $(ARGS)

lint: $(STAMP) ## Run ruff, mypy and import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## Let ruff rewrite the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench-peers: $(STAMP) ## Install LiteLLM, Portkey and procrastinate, outside .venv, to measure against them
	@$(BIN)/python -m benchmarks.peers

bench-gateway: $(STAMP) ## Measure the gateway and its peers (ARGS="--quick --only raymill,uvicorn")
	@$(BIN)/python -m benchmarks.gateway $(ARGS)

bench-vllm: $(STAMP) ## Measure our own model through the gateway against its vLLM directly
	@$(BIN)/python -m benchmarks.vllm $(ARGS)

bench-prefixes: $(STAMP) ## Measure what routing by prefix spares two vLLM replicas (ARGS=--quick)
	@$(BIN)/python -m benchmarks.prefixes $(ARGS)

bench-reads: $(STAMP) ## Measure the control plane's lists and gets beside 100,000 jobs (ARGS=--quick)
	@$(BIN)/python -m benchmarks.reads $(ARGS)

bench-evaluate: $(STAMP) ## Measure evaluation beside the lm_eval command (ARGS="--quick --data FOLDER")
	@$(BIN)/python -m benchmarks.evaluate $(ARGS)

bench-governance: $(STAMP) ## Measure the audit log, the policy and signing, and tamper with a log (ARGS=--quick)
	@$(BIN)/python -m benchmarks.governance $(ARGS)

simulate: $(STAMP) ## Simulate the scheduler and the gateway at 1,000 nodes from recorded times
	@$(BIN)/python -m benchmarks.simulate

bench-code: $(STAMP) ## Measure what the code analysers find of labelled weaknesses (ARGS="--quick --data FILE")
	@$(BIN)/python -m benchmarks.code $(ARGS)

bench-train: $(STAMP) ## Measure training beside bare TRL, and how long a run takes to start (ARGS=--quick)
	@$(BIN)/python -m benchmarks.train $(ARGS)

lock: ## Pin every package again, from pyproject.toml
	@for device in cpu gpu; do \
	    $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --no-emit-index-url \
	        --override constraints/overrides-$$device.txt --extra $$device --extra s3 --extra dev pyproject.toml \
	        | sed 's/+cpu//' > constraints/$$device.txt.new && mv constraints/$$device.txt.new constraints/$$device.txt; \
	done

clean: ## Remove the virtual environment and what the tools left
	rm -rf $(VENV) .bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo-report.json

bench-jobs: $(STAMP) ## Measure the job engine and its peers (ARGS=--quick)
	@$(BIN)/python -m benchmarks.jobs $(ARGS)

chaos: $(STAMP) ## Kill parts of a service at random and count what is lost (ROUNDS=100 SEED=1)
	@$(BIN)/python -m raymill.cluster.chaos --rounds $(or $(ROUNDS),100) --seed $(or $(SEED),1) $(ARGS)

soak: $(STAMP) ## See whether the service stays as small as it was under mixed load (MINUTES=30)
	@$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),30)
