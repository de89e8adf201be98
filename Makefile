# Two commands: `make demo` shows tenantd at work on a real model, `make test` runs everything.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo evidence clients gpu test device-test web-test night lint format generate release uplot clean
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/demo.stamp ## install, then serve two tenants on a small model and print their invoice
	@$(BIN)/tenantctl demo

test: $(VENV)/dev.stamp ## install, then run the whole test suite, in several processes
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

device-test: ## the engine's tests with all layers on a device: Mesa's software one, so without a GPU (ARGS="-x")
	@$(NO_AMX) PYTHON=$(PYTHON) tests/on_device.sh build/device $(ARGS)

web-test: $(VENV)/dev.stamp ## the web page in Chromium, with pictures in build/web (Debian: chromium nodejs npm)
	@mkdir -p build/web && cd build/web && npm install --silent --no-save --no-package-lock playwright-core@1
	@$(BIN)/python -m tests.web.in_chromium build/web

night: $(VENV)/dev.stamp ## the random tests at length: schedules, tenants beside each other, requests, grammars, broken lines, examples
	@TENANTD_SCENARIOS=$${TENANTD_SCENARIOS:-10000} TENANTD_GRAMMARS=$${TENANTD_GRAMMARS:-10000} \
	  TENANTD_SEEDS=$${TENANTD_SEEDS:-300} TENANTD_INTERLEAVINGS=$${TENANTD_INTERLEAVINGS:-1000} \
	  TENANTD_REQUESTS_MINUTES=$${TENANTD_REQUESTS_MINUTES:-10} TENANTD_TEXTS=$${TENANTD_TEXTS:-500} \
	  TENANTD_MUTATIONS=$${TENANTD_MUTATIONS:-all} TENANTD_KILLS=$${TENANTD_KILLS:-450} \
	  TENANTD_MODEL_KILLS=$${TENANTD_MODEL_KILLS:-50} \
	  $(BIN)/python -m pytest -s --timeout 7200 tests/engine/test_simulation.py tests/engine/test_backlog.py \
	  tests/engine/test_rehearsal.py tests/engine/test_residency.py tests/engine/test_cache_simulation.py \
	  tests/model/test_grammar_costs.py tests/model/test_constraints.py tests/isolation/test_interleavings.py \
	  tests/process/test_described_requests.py tests/text/test_guard.py tests/mutations tests/crashes
	@TENANTD_EXAMPLES=$${TENANTD_EXAMPLES:-20} $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
	  --timeout 7200 -m hypothesis

evidence: $(VENV)/demo.stamp ## measure tenantd next to llama-server, ten minutes: make evidence MODEL=x.gguf (LLAMA_SERVER=path)
	@server="$${LLAMA_SERVER:-$$(PYTHON=$(BIN)/python $(NO_AMX) benchmarks/build_llama_server.sh $(VENV)/llama-server)}"; \
	$(BIN)/python benchmarks/evidence.py --llama-server "$$server" $(if $(MODEL),--model "$(MODEL)") \
	  --page build/evidence.md --json build/evidence.json $(ARGS)

clients: $(VENV)/dev.stamp ## try what people connect with, and llama-server's own tests: half an hour (ARGS="curl llm")
	@status=0; \
	$(BIN)/python -m tests.clients --json build/clients.json --page build/clients.md $(ARGS) || status=1; \
	$(if $(ARGS),,$(BIN)/python -m tests.clients.llama_server --json build/llama-server-tests.json \
	  --page build/llama-server-tests.md || status=1;) \
	exit $$status

gpu: $(VENV)/demo.stamp ## measure tenantd next to llama.cpp itself on a GPU: make gpu MODEL=x.gguf (ARGS="--only raw,served")
	@$(BIN)/python benchmarks/gpu.py $(if $(MODEL),--model "$(MODEL)") --page build/gpu.md --json build/gpu.json $(ARGS)

lint: $(VENV)/dev.stamp ## ruff and mypy
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(VENV)/dev.stamp ## let ruff tidy up
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

generate: $(VENV)/demo.stamp ## write examples/tenantd.toml, completions/ and docs/configuration.md again after a change of settings or options
	@$(BIN)/tenantctl init --config examples/tenantd.toml --force 2>/dev/null
	@$(BIN)/tenantctl completion bash > completions/tenantctl.bash
	@$(BIN)/tenantctl completion zsh > completions/_tenantctl
	@$(BIN)/tenantctl completion fish > completions/tenantctl.fish
	@$(BIN)/python -m tests.support.configuration_page

# The wheel is installed where nothing else is, so that the list of components has what users get, and nothing more.
release: ## wheel, sdist, their components (CycloneDX) and checksums, in dist/
	@rm -rf dist build/release build/installed
	@$(PYTHON) -m venv build/release
	@build/release/bin/python -m pip install -q --upgrade pip
	@build/release/bin/python -m pip install -q build cyclonedx-bom
	@build/release/bin/python -m build --outdir dist . >build/release/log || { tail -n 40 build/release/log >&2; exit 1; }
	@$(PYTHON) -m venv --without-pip build/installed
	@echo "installing the wheel (compiles llama.cpp unless a built wheel is cached)"
	@$(NO_AMX) build/release/bin/python -m pip --python build/installed/bin/python install -q $(NO_CACHE) dist/*.whl
	@build/installed/bin/tenantctl --version
	@version=$$(build/installed/bin/tenantd --version | cut -d ' ' -f 2); \
	sed "s/^dynamic = .*/version = \"$$version\"/" pyproject.toml > build/release/pyproject.toml; \
	build/release/bin/cyclonedx-py environment --pyproject build/release/pyproject.toml --output-reproducible \
	  --output-file "dist/tenantd-$$version.cdx.json" build/installed/bin/python
	@cd dist && sha256sum * > SHA256SUMS && ls -l

UPLOT := 1.6.32
uplot: ## fetch the web page's charts again from npm, after a change of UPLOT in the Makefile
	@mkdir -p build && cd build && npm pack --silent uplot@$(UPLOT) >/dev/null && tar -xzf uplot-$(UPLOT).tgz
	@cd build/package && cp LICENSE dist/uPlot.iife.min.js dist/uPlot.min.css ../../tenantd/web/uplot/

clean: ## remove what was built
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tenantd needs Python 3.11 or later; name one with make PYTHON=python3.11")'
	@for tool in gcc g++ cmake make git; do \
	  command -v $$tool >/dev/null || { echo "missing: $$tool (apt-get install build-essential cmake git)" >&2; exit 1; }; done
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "missing: the venv module (apt-get install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip install -q --upgrade pip
	@touch $@

# A gcc without the fix of its bug 114098 drops the configuration of AMX tiles, and on a CPU that has them the engine
# would end with an illegal instruction. Such a gcc leaves AMX out; wheels cached without that are not used.
ifneq ($(shell g++ -E -x c++ -mamx-tile -include immintrin.h /dev/null 2>/dev/null | grep -c 'ldtilecfg.*const void'),0)
NO_AMX := CMAKE_ARGS="$${CMAKE_ARGS:-} -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__"
NO_CACHE := $(if $(shell grep -sw amx_tile /proc/cpuinfo | head -n 1),--no-cache-dir)
endif

# llama.cpp compiles here, minutes on a small machine: ninja's [n/m] lines become one line that counts up.
$(VENV)/llama.stamp: $(VENV)/python.stamp pyproject.toml
	@version=$$(sed -nE 's/.*"(llama-cpp-python==[^"]+)".*/\1/p' pyproject.toml); \
	echo "installing $$version (compiles llama.cpp unless a built wheel is cached; log: $(VENV)/llama.log)"; \
	$(NO_AMX) $(BIN)/python -m pip install -v $(NO_CACHE) "$$version" 2>&1 | tee $(VENV)/llama.log \
	  | sed -unE 's/^ *\[([0-9]+)\/([0-9]+)\].*/  building llama.cpp: \1 of \2/p' \
	  | { while read -r line; do \
	      n=$${line#*: }; n=$${n%% *}; \
	      if [ -t 1 ]; then printf '\r%s ' "$$line"; elif (( n % 20 == 0 )); then echo "$$line"; fi; \
	      done; if [ -t 1 ]; then echo; fi; } \
	  || { tail -n 40 $(VENV)/llama.log >&2; exit 1; }
	@touch $@

$(VENV)/demo.stamp: $(VENV)/llama.stamp pyproject.toml
	@echo "installing tenantd and the demo model"
	@$(BIN)/python -m pip install -q -e '.[demo]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/llama.stamp pyproject.toml
	@echo "installing tenantd, the demo model and what the tests need"
	@$(BIN)/python -m pip install -q -e '.[demo,dev]'
	@touch $@
