# make demo, make test: all a fresh machine needs is Python 3.11+, make and a package index.
.DEFAULT_GOAL := help
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
RUN := $(UV) run --locked

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(if $(filter .tools/bin/uv,$(UV)),.tools/bin/uv):
	python3 -m venv .tools
	.tools/bin/pip install --quiet 'uv>=0.13.8,<0.14'

install: $(filter .tools/bin/uv,$(UV)) ## the locked environment, into .venv
	$(UV) sync --locked --quiet

demo: install ## deposit, withdraw and revoke over HTTP; stays up (EXIT=1: ends)
	$(RUN) python -m demo $(if $(EXIT),--exit)

compiled: install
	$(UV) sync --locked --quiet --compile-bytecode # tests start hundreds of processes, also where Python writes none

# Two more than there are cores: tests wait for their services, leases and disks at times.
PROCESSES := $(shell python3 -c 'import os; print(min(os.cpu_count() + 2, 8))')
# Each of them would rewrite the assertions of all tests anew where Python writes no bytecode: 5 s of each process.
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(RUN) pytest -n $(PROCESSES) --dist worksteal
quick: compiled ## the tests for between two edits: SQLite, no other processes; no attack, nothing slow
	env -u TEST_DATABASE_URL -u TEST_REDIS_URL $(PYTEST) -m "not (attack or slow or processes)"

test: compiled ## every test but the attacks (PostgreSQL and Redis too if TEST_DATABASE_URL and TEST_REDIS_URL are set)
	$(PYTEST) -m "not attack"

attacks: compiled ## every attack in its short dose
	$(PYTEST) -m attack

suite: compiled ## make test and make attacks in one run
	$(PYTEST)

N ?= 500
FUZZ_SECONDS ?= 300
KINDS = embedded $(if $(and $(TEST_DATABASE_URL),$(TEST_REDIS_URL)),spread-out)
chaos: compiled ## every attack in its long dose, then N deposits under fire; exit code 1 when something is lost or done twice
	LIRF_DOSES=long $(PYTEST) -m attack
	$(RUN) --group fuzz python -m tests.lirf_core.fuzz_weights --seconds $(FUZZ_SECONDS)
	for kind in $(KINDS); do $(RUN) python -m tests.e2e --deposits 60 --kind $$kind || exit 1; done
	for kind in $(KINDS); do $(RUN) python -m tests.e2e --deposits $(N) --kind $$kind --forked || exit 1; done

bench: install ## the tables of the paper and the speed, on digits; results in benchmarks/results
	$(RUN) python -m benchmarks.paper table1
	$(RUN) python -m benchmarks.paper table2
	$(RUN) python -m benchmarks.paper table3
	$(RUN) python -m benchmarks.paper figure3
	$(RUN) python -m benchmarks.paper figure4
	$(RUN) python -m benchmarks.speed --data digits
	$(RUN) python -m benchmarks.startup

bench-serving: install ## our server against LitServe and the bare network; wants wrk (Debian's package)
	$(RUN) --group serving python -m benchmarks.serving

check: install ## format, lint, types, import contracts
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports

notebook: install ## execute the documentation's notebook, in place
	$(RUN) --group docs jupyter nbconvert --to notebook --execute --inplace docs/notebooks/digits.ipynb

docs: install ## the documentation, into var/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(RUN) --group docs mkdocs build --quiet

problems: install ## docs/problems.md, from the code
	$(RUN) python -m docs.problems

vendor: ## what the console takes from npm, into the repository (wants Node)
	cd app/console && npm ci --silent --no-audit --no-fund
	cp app/console/node_modules/htmx.org/dist/htmx.min.js app/console/static/vendor/
	cp app/console/node_modules/uplot/dist/uPlot.iife.min.js app/console/node_modules/uplot/dist/uPlot.min.css app/console/static/vendor/
	cp app/console/node_modules/htmx.org/LICENSE app/console/static/vendor/LICENSE.htmx.txt
	cp app/console/node_modules/uplot/LICENSE app/console/static/vendor/LICENSE.uPlot.txt

format: install ## put the code into format
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

.PHONY: help install compiled demo quick test attacks suite chaos bench bench-serving check docs problems notebook vendor format
