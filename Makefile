# Everything happens in .venv, made on first use. `make help` lists the targets.
PYTHON ?= python3
ifeq ($(PYTHON),python3)
VENV := .venv
else  # an environment of its own, so that a version's tests do not run on another version
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

PYTHONS ?= 3.11 3.12 3.13 3.14

.PHONY: help run test pythons oldest tox lint typecheck unit simulate patience fuzz stack streams limits fleet kill ray lane losers turns \
  standard record recordings typed notebooks demo docs soak wheel audit sbom matrix fuzz-wire proxies bench bench-sizes instructions-baseline judges \
  peers service format clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet --editable '.[local,progress]'
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(PIP) install --quiet --group dev
	@touch $@

run: $(VENV)/.installed ## answer a question with the embedded model (no key needed)
	@$(BIN)/langchain-resilient ask --target local "Why is the sky blue?"

test: lint typecheck unit ## lint, types and all tests

pythons: ## `make test` with each Python that PYTHONS names and that is found, on the PATH or by pyenv
	@tested=; failed=; absent=; \
	for version in $(PYTHONS); do \
	  for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python none; do \
	    "$$python" -c 'import venv, sqlite3, ssl' 2>/dev/null && break; \
	  done; \
	  if [ "$$python" = none ]; then absent="$$absent $$version"; \
	  elif $(MAKE) test PYTHON="$$python"; then tested="$$tested $$version"; \
	  else failed="$$failed $$version"; fi; \
	done; \
	echo "make test passed on:$${tested:- none}; failed on:$${failed:- none}; not found:$${absent:- none}"; \
	[ -z "$$failed" ] && [ -n "$$tested" ]

.oldest/.installed: pyproject.toml
	$(PYTHON) -m venv --clear .oldest
	.oldest/bin/python -m pip --disable-pip-version-check install --quiet --upgrade uv
	VIRTUAL_ENV=.oldest .oldest/bin/uv pip install --quiet --resolution lowest-direct --editable '.[local,progress]' --group test
	@touch $@

oldest: .oldest/.installed ## the tests with the oldest version of each dependency that pyproject.toml admits
	.oldest/bin/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

tox: oldest pythons wheel ## all that a release is tested with: the oldest dependencies, every Python, the wheel

lint: $(VENV)/.developer ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.developer ## mypy --strict; the API as users write it, by mypy without plugins and by pyright
	$(BIN)/mypy
	$(BIN)/mypy --config-file /dev/null --strict --cache-dir .mypy_cache/plain tests/typing
	$(BIN)/pyright --pythonpath $(BIN)/python tests/typing

typed: $(VENV)/.developer ## how much of the public API pyright finds typed
	$(BIN)/pyright --pythonpath $(BIN)/python --verifytypes langchain_resilient --ignoreexternal | tail -22

unit: $(VENV)/.developer ## the tests alone, on up to four cores
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

simulate: $(VENV)/.developer ## the hedging engine in virtual time: the table, and its CPU a request
	$(BIN)/python -m verification.simulation
	$(BIN)/python -m verification.simulation users
	$(BIN)/python -m verification.simulation overhead

patience: $(VENV)/.developer ## thinking models and lone users, over real sockets and in real time
	$(BIN)/python -m verification.patience

fuzz: $(VENV)/.developer ## random fault schedules against the engine's invariants, and its planner's
	ENGINE_EXAMPLES=20 $(BIN)/python -m pytest -q tests/engine/test_planner_machine.py
	$(BIN)/python -m verification.simulation fuzz --seeds 1000

stack: $(VENV)/.developer ## random mixtures of faults over the real SDKs, in virtual time
	$(BIN)/python -m verification.whole_stack --seeds 1000

streams: $(VENV)/.developer ## broken streams and public failover scenarios: what the user gets
	$(BIN)/python -m verification.streams

limits: $(VENV)/.developer ## batches under rate limits, in virtual time: makespan and refusals
	$(BIN)/python -m verification.limits

fleet: $(VENV)/.developer ## four processes with one key and one Redis: makespan, refusals, outages; 1,000 workers
	$(BIN)/python -m verification.fleet

kill: $(VENV)/.developer ## kill -9 a batch with a journal 50 times: nothing lost, nothing asked twice
	$(BIN)/python -m verification.kill

ray: $(VENV)/.developer ## kill actors, nodes and drivers of Ray: nothing lost, nothing recorded asked twice (extra `ray`)
	$(PIP) install --quiet 'ray[data]>=2.60,<3'
	$(BIN)/python -m verification.ray

lane: $(VENV)/.developer ## lane="batch": its cost and deadline over backlogs and random worlds, kills, memory
	$(BIN)/python -m verification.lane backlogs
	$(BIN)/python -m verification.lane seeds
	$(BIN)/python -m verification.lane kills
	$(BIN)/python -m verification.lane memory

losers: $(VENV)/.developer ## a real llama.cpp server loses races, and its metrics show that it stops
	$(BIN)/python -m verification.losers

turns: $(VENV)/.developer ## agents that change their target at every turn: a 4 x 4 matrix
	@$(BIN)/python -m verification.turns

standard: $(VENV)/.developer ## LangChain's standard suites: what passed, and why the rest was skipped
	@$(BIN)/python -m verification.standard

record: $(VENV)/.developer ## record the cassettes anew, live where a provider's key is set
	$(BIN)/python -m verification.cassettes

recordings: $(VENV)/.developer ## count what the real exchanges beside the repository hold
	@$(BIN)/python -m verification.recordings

notebooks: $(VENV)/.developer ## run the notebooks from top to bottom, and keep their outputs
	$(BIN)/python -m verification.notebooks

demo: $(VENV)/.developer ## a two-minute live show in the terminal (no key needed)
	@$(BIN)/langchain-resilient demo

docs: $(VENV)/.documented ## the documentation as HTML, in docs/_build/html; what of it comes from the code is written anew
	$(BIN)/python -m docs.generate
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

$(VENV)/.documented: $(VENV)/.installed
	$(PIP) install --quiet --group docs
	@touch $@

soak: $(VENV)/.developer ## an hour of prompts with faults and cancellations in one process: is all flat?
	$(BIN)/python -m verification.soak --prompts 320000 --minutes 60

wheel: $(VENV)/.developer ## build the wheel, install it in an empty environment, use it and its types there
	$(BIN)/python -m verification.wheel

# The auditors have an environment of their own; what they look at is one with nothing but the package.
.audit/.installed: pyproject.toml
	$(PYTHON) -m venv .audit/tools && .audit/tools/bin/python -m pip install --quiet 'pip>=25.1'
	.audit/tools/bin/python -m pip install --quiet --group audit
	$(PYTHON) -m venv .audit/runtime && .audit/runtime/bin/python -m pip install --quiet 'pip>=25.1'
	.audit/runtime/bin/python -m pip install --quiet .
	@touch $@

audit: .audit/.installed ## known vulnerabilities in the runtime dependencies (asks a service)
	@$(PYTHON) -m verification.supply_chain audit

sbom: .audit/.installed ## dist/sbom.json (CycloneDX), and the dependencies' licences
	@$(PYTHON) -m verification.supply_chain sbom

matrix: $(VENV)/.developer ## every fault x every way to ask x every place, over real sockets
	$(BIN)/python -m verification.matrix

fuzz-wire: $(VENV)/.developer ## 100,000 malformed answers, and sizes that no provider sends
	-$(PIP) install --quiet atheris
	$(BIN)/python -m verification.fuzz

.rivals/.installed: benchmarks/rivals-requirements.txt benchmarks/litellm-requirements.txt pyproject.toml
	$(PYTHON) -m venv .rivals
	$(PYTHON) -m venv .rivals/litellm
	.rivals/bin/python -m pip install --quiet -r benchmarks/rivals-requirements.txt --editable .
	.rivals/litellm/bin/python -m pip install --quiet -r benchmarks/litellm-requirements.txt
	-.rivals/bin/python -m pip install --quiet liter-llm
	@touch $@

bench: .rivals/.installed ## beside the bare SDK, LangChain, litellm, pydantic-ai and a client in Rust (ten minutes)
	@.rivals/bin/python -m benchmarks

bench-sizes: .rivals/.installed ## what each of them installs; `make bench` prints it from then on
	@.rivals/bin/python -m benchmarks --sizes

instructions-baseline: $(VENV)/.developer ## count bytecode instructions anew: what CI compares with
	$(BIN)/python -m verification.instructions --store

service: $(VENV)/.developer ## the HTTP service: what it adds to latency, what it loses, and what being warm is worth
	$(BIN)/python -m verification.service overhead
	$(BIN)/python -m verification.service faults
	$(BIN)/python -m verification.service warm
	LANGCHAIN_RESILIENT_LONG=1 $(BIN)/python -m pytest -q tests/service/test_standard.py

.rivals/proxy/.installed: benchmarks/litellm-proxy-requirements.txt
	$(PYTHON) -m venv .rivals/proxy
	.rivals/proxy/bin/python -m pip install --quiet -r benchmarks/litellm-proxy-requirements.txt
	@touch $@

proxies: .rivals/proxy/.installed $(VENV)/.developer ## the HTTP service beside a bare proxy and litellm's
	$(BIN)/python -m verification.service beside --litellm .rivals/proxy/bin/litellm

judges: $(VENV)/.developer ## llmock, aimock, llama.cpp and HAProxy judge us (installs the first two into .judges)
	$(BIN)/python -m verification.judges $(JUDGES)

peers: $(VENV)/.developer ## compare with ChatOpenAI and ChatTogether, field by field (installs the second into .peers)
	test -d .peers || $(BIN)/pip install --quiet --no-deps --target .peers langchain-together
	PYTHONPATH=.peers $(BIN)/python -m verification.peers

format: $(VENV)/.developer ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and all caches
	rm -rf .venv .venv-* .oldest .audit .peers .pytest_cache .mypy_cache .ruff_cache dist docs/_build
