# The commands that people type; CI types the same ones. Each works as the very first on a fresh machine.

PYTHON ?= python3
PROMPT ?= Once upon a time
SERVE_OPTIONS ?=
GPU_PYTHON ?= 3.12
GPU_CHECK_OPTIONS ?=
RANDOM_1B ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tolbooth/random-1b

BIN := .venv/bin
STAMP := .venv/.setup-done
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt

# The prompt reaches the shell unexpanded, through the environment: quotes and dollar signs in it are only text.
unexport PROMPT
demo: export DEMO_PROMPT := $(value PROMPT)

.DEFAULT_GOAL := help
.PHONY: help setup demo serve serve-1b test check bench bench-paging bench-engine bench-alternatives bench-serve bench-metrics bench-start bench-overhead bench-layout bench-scale bench-profile gpu-wheels gpu-check clean

help: ## list these commands
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile

setup: $(STAMP) ## make .venv and install the pinned versions into it (again only when they change)

demo: $(STAMP) ## print text from the bundled model: make demo PROMPT="Once upon a time"
	@$(BIN)/tolbooth generate --prompt="$$DEMO_PROMPT"

serve: $(STAMP) ## serve the bundled model at http://127.0.0.1:8000/v1, a tenth of its rows in memory
	@$(BIN)/tolbooth serve --tol-device-fraction 0.1 $(SERVE_OPTIONS)

# The demo's tokenizer stands in for one of 128,256 entries: prompts become ids, most of the random answer has no text.
serve-1b: $(STAMP) ## serve random weights at 1B size: makes a table of 12.6 GB in RANDOM_1B first
	@test -e "$(RANDOM_1B)/config.json" || \
		$(BIN)/tolbooth init 1b-memoryllm --table synthetic --out "$(RANDOM_1B)"
	@cp models/demos/demo/tokenizer.json models/demos/demo/tokenizer_config.json "$(RANDOM_1B)"
	@$(BIN)/tolbooth serve "$(RANDOM_1B)" --served-model-name random-1b --tol-device-bytes 1200000000 $(SERVE_OPTIONS)

test: $(STAMP) ## run all tests
	$(BIN)/pytest

check: $(STAMP) ## lint, format, types, import law
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: bench-paging bench-engine bench-alternatives bench-serve bench-metrics bench-start bench-overhead bench-layout bench-scale bench-profile ## run every benchmark

bench-paging: $(STAMP) ## cold reads, leases, memory (as root, with fio: apt-get install fio)
	$(BIN)/python benchmarks/bench_paging.py --out docs/benchmarks/paging-$$(date +%F)

bench-engine: $(STAMP) ## serving from a paged table beside one in memory: make bench-engine TEXT=books.txt
	@test -n "$(TEXT)" || { echo "error: name a text of some tens of megabytes: make bench-engine TEXT=books.txt" >&2; exit 2; }
	$(BIN)/python benchmarks/bench_engine.py --text "$(TEXT)" --out docs/benchmarks/engine-$$(date +%F)

bench-alternatives: $(STAMP) ## beside what could be used instead: make bench-alternatives TEXT=books.txt (as root)
	@test -n "$(TEXT)" || { echo "error: name a text of some tens of megabytes: make bench-alternatives TEXT=books.txt" >&2; exit 2; }
	$(BIN)/python benchmarks/bench_alternatives.py --text "$(TEXT)" --out docs/benchmarks/alternatives-$$(date +%F)

bench-overhead: $(STAMP) ## what the engine itself takes of a step: all but model, scores and sampler
	$(BIN)/python benchmarks/bench_overhead.py --out docs/benchmarks/overhead-$$(date +%F)

bench-layout: $(STAMP) ## matrices as stored beside a CPU's own order: make bench-layout TEXT=books.txt
	@test -n "$(TEXT)" || { echo "error: name a text of some tens of megabytes: make bench-layout TEXT=books.txt" >&2; exit 2; }
	$(BIN)/python benchmarks/bench_layout.py --text "$(TEXT)" --out docs/benchmarks/layout-$$(date +%F)

bench-scale: $(STAMP) ## curves over vocabulary, layers, table size, streams, contexts (13 GB of disk, some 12 minutes)
	$(BIN)/python benchmarks/bench_scale.py --out docs/benchmarks/scale-$$(date +%F)

bench-profile: $(STAMP) ## where the time of a decoding step goes, by part and by operator
	$(BIN)/python benchmarks/profile_step.py --out docs/benchmarks/profile-$$(date +%F)

gpu-wheels: $(STAMP) ## fetch what a bare CUDA machine lacks into build/wheels: make gpu-wheels GPU_PYTHON=3.12
	$(BIN)/python -m pip download -q --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) --implementation cp \
		--platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
		--constraint constraints.txt -d build/wheels xxhash msgspec

gpu-check: ## everything that needs a CUDA device, on a machine with torch and nothing else of ours
	$(PYTHON) benchmarks/gpu_check.py $(GPU_CHECK_OPTIONS) --out docs/benchmarks/gpu-$$(date +%F)

bench-serve: $(STAMP) ## streaming over HTTP beside the engine without it
	$(BIN)/python benchmarks/bench_serve.py --out docs/benchmarks/serve-$$(date +%F)

bench-metrics: $(STAMP) ## what a scrape costs, and what is counted in a step
	$(BIN)/python benchmarks/bench_metrics.py --out docs/benchmarks/metrics-$$(date +%F)

bench-start: $(STAMP) ## from the command to the first token, cold and warm
	$(BIN)/python benchmarks/bench_start.py --out docs/benchmarks/start-$$(date +%F)

clean: ## remove build outputs and the tools' caches; .venv stays
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name .venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

# torch goes first because the pin alone decides which build is taken, before any other package asks for a range of it.
# hatchling goes first so that the build uses the pinned one (no isolation: an isolated build ignores constraints).
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "error: there is no $(PYTHON) here; install Python 3.11 or newer, or name one: make setup PYTHON=python3.11" >&2; \
		exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is $$("$(PYTHON)" --version 2>&1); Tolbooth needs 3.11 or newer," \
			"name one: make setup PYTHON=python3.11" >&2; \
		exit 2; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot make virtual environments; install its venv module" \
			"(Debian and Ubuntu: apt-get install python3-venv)" >&2; \
		exit 2; }
	@echo "setup: making .venv with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv .venv
	@echo "setup: installing torch (the largest download) and the build backend"
	@$(PIP) torch hatchling
	@echo "setup: installing tolbooth, its libraries and its tools"
	@$(PIP) --no-build-isolation --editable '.[dev,analysis,interop]'
	@touch $(STAMP)
	@echo "setup: done"
