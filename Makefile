# All that a developer or a CI server runs. Needs a POSIX machine with make and Python 3.10 or later (with venv).
#
#   make test      environment, linters, types, the whole suite plain and monkey-patched, then the other Pythons
#   make demo      5,000 bank transfers over 20 connections that are shot under way; a throw-away Postgres
#   make examples  each example, as it stands
#   make cluster   10,000 transfers over worker processes, one of which is shot; a throw-away Postgres and Redis
#   make web       a shop on Flask and Gunicorn, over a throw-away Postgres, to try deploys on
#   make lint, suite, suite-patched, suite-around, suite-around-patched, test-pythons    the parts of `make test`
#   make docs      the documentation, in docs/_build; a warning is an error
#   make extras    each extra suffices, tried in environments of their own
#   make bench     what a task costs, beside the alternatives: table, JSON and plots, in benchmarks/results
#   make bench-docs    shows in the documentation what is in benchmarks/results
#   make stress    the seeded runs, for long
#   make soak      eleven million tasks, and the memory stays flat
#   make coverage  the suite plain, and what it did not reach
#   make clean     takes away all that was made here

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -q
STRESS_SEEDS ?= 5000

python := $(VENV)/bin/python
pythons := $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python3.10
# An environment is as good as its pyproject.toml: its stamp has that file's checksum in its name.
key := $(shell cksum < pyproject.toml | cut -d ' ' -f 1)
demo := $(VENV)/.demo-$(key)
dev := $(VENV)/.dev-$(key)
sources = $(wildcard gtasker gtasker_pytest tests examples benchmarks scripts)
core = $(wildcard tests/test_*.py) tests/unit tests/acceptance tests/proof
suites = $(core) tests/postgres
around = tests/web tests/monitoring tests/resources tests/distributed tests/docs tests/packaging
around_patched = tests/resources
# Two at a time, for many tests wait for something; where make can, what they say is not mixed.
two = --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=line)

# Without Debian's browser the page's tests are left out, and that is said; a CI server has to run them.
browser := $(if $(CI),ci,$(and $(shell command -v chromium),$(shell command -v chromedriver)))

.DELETE_ON_ERROR:
.PHONY: help test lint suite suite-patched suite-around suite-around-patched test-pythons examples demo cluster web docs extras bench bench-docs stress soak coverage clean

help:
	@sed -n 's/^#   //p' Makefile

test: lint
	@echo "the suites, plain and monkey-patched, and the other Pythons, two at a time: a quarter of an hour with few words"
	$(MAKE) $(two) suite-around test-pythons suite suite-patched suite-around-patched

lint: $(dev)
	$(python) -m ruff check --quiet $(sources)
	$(python) -m ruff format --quiet --check $(sources)
	$(python) -m mypy --no-error-summary $(sources)
	$(python) -m ruff check --quiet docs/conf.py docs/_ext
	$(python) -m ruff format --quiet --check docs/conf.py docs/_ext
	$(python) -m mypy --no-error-summary docs/conf.py docs/_ext

suite: $(dev)
	$(python) -m pytest $(PYTEST_ARGS) $(suites)

suite-patched: $(dev)
	GTASKER_TEST_PATCHED=1 $(python) -m gevent.monkey --module pytest $(PYTEST_ARGS) $(suites)

suite-around: $(dev)
	@$(if $(browser),:,echo "no chromium and chromedriver: the dashboard's browser tests are LEFT OUT")
	$(python) -m pytest $(PYTEST_ARGS) $(if $(browser),,-m "not browser") $(around)

suite-around-patched: $(dev)
	GTASKER_TEST_PATCHED=1 $(python) -m gevent.monkey --module pytest $(PYTEST_ARGS) $(around_patched)

test-pythons: $(dev)
	$(python) scripts/other_pythons.py --environments $(VENV) -- $(PYTEST_ARGS) -m "not slow and not postgres" $(core)

examples: $(demo)
	@set -e; for each in basic intermediate advanced postgres; do \
		echo "$(python) examples/$$each.py"; $(python) examples/$$each.py; \
	done

demo: $(demo)
	$(python) -m examples.bank

cluster: $(dev)
	$(python) -m examples.cluster

web: $(demo)
	$(python) -m examples.flask_app

docs: $(dev)
	$(python) -m sphinx -W -n --keep-going -q docs docs/_build

extras: $(dev)
	rm -rf dist
	$(python) -m build
	$(python) scripts/check_extras.py dist/*.whl

bench: $(dev)
	$(python) -m benchmarks
	$(python) -m benchmarks.plots

bench-docs:
	cp benchmarks/results/*.md benchmarks/results/*.svg docs/_generated/

stress: $(dev)
	GTASKER_STRESS_SEEDS=$(STRESS_SEEDS) $(python) -m pytest $(PYTEST_ARGS) --timeout=0 -m slow tests/proof

soak: $(dev)
	$(python) -m benchmarks.soak

coverage: $(dev)
	$(python) -m coverage run -m pytest $(PYTEST_ARGS) $(suites)
	$(python) -m coverage report

clean:
	rm -rf $(VENV) $(VENV)-3.* build dist *.egg-info .coverage htmlcov docs/_build
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(sources) -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python counts if it runs (the shim of a version manager may not), is recent enough, and can make environments.
$(python):
	@for each in $(pythons); do \
		if $$each -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
			echo "$$each -m venv $(VENV)"; exec $$each -m venv $(VENV); \
		fi; \
	done; \
	echo "no Python 3.10 or later that can make environments (on Debian: apt install python3-venv)" >&2; exit 1

$(demo): | $(python)
	@# What the suite needs includes what the demo needs.
	test -e $(dev) || $(python) -m pip install --quiet --disable-pip-version-check --no-input --editable '.[demo]'
	@touch $@

$(dev): | $(python)
	$(python) -m pip install --quiet --disable-pip-version-check --no-input --editable '.[dev]'
	@touch $@
