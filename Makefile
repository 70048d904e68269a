# make run    start the page; options in ARGS, as in: make run ARGS="--port 5055"
# make test   lint, types and all tests; some of them as in: make test ARGS="-k contract"
# make test-all   the same on every Python from 3.10 on that this machine has
# make test-busy   all tests three times in a row beside four busy loops: none may depend on speed
# make test-faults   a log and a state for 220 subscribers while workers, Redis and nginx fail; some
#   of the faults as in: make test-faults ARGS="-k mixed"; EVENTS=1000 is shorter
# make cluster   nginx, four processes and Redis, on this machine; options of serve.py in ARGS
# make compare   measure every transport; options in ARGS, as in: make compare ARGS=--quick
# make docs   the site, at build/docs/index.html; the lab shows it at /docs/
# make offline   a zip for a class without a network: programs, packages, the site
# make figures   renew the figures in README and docs from docs/results/, with cog
# All set up what they need, in .venv, and what the tests need of the system with apt.

PYTHON ?= python3
ARGS ?=
VENV ?= .venv
APT := apt-get -qq -o DPkg::Lock::Timeout=120
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

# Where it is set, each server that a test starts would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run docs offline cluster compare test test-all test-busy test-faults pytest check figures packages clean

run: $(VENV)/run
	@exec $(VENV)/bin/python serve.py $(ARGS)

cluster: $(VENV)/servers
	@exec $(VENV)/bin/python servers/cluster.py $(ARGS)

compare: $(VENV)/compare
	@exec $(VENV)/bin/python compare.py $(ARGS)

test: packages check pytest

WORKERS = $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1) + 1)')

# Without lint and types.
pytest: | packages $(VENV)/test
ifeq ($(ARGS),)
	# Five workers on two cores, which keep those busy. Each has a browser and servers, so more cost
	# more. `worksteal` gives a worker tests that follow each other, which share them.
	$(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not alone"
	$(VENV)/bin/python -m pytest -q -m alone $$(grep -l mark.alone tests/test_*.py)
else
	$(VENV)/bin/python -m pytest $(ARGS)
endif

test-all:
	@for python in $$($(PYTHON) tests/pythons.py); do \
		echo "== $$python"; \
		$(MAKE) test PYTHON=$$python VENV=.venv-$$(basename $$python) || exit 1; \
	done

# The loops are ended by their ids, also when a test fails, and by Ctrl-C.
test-busy: packages $(VENV)/test
	@loops=; trap 'kill $$loops' EXIT; trap 'exit 130' INT TERM HUP; \
	for loop in 1 2 3 4; do sh -c 'while :; do :; done' & loops="$$loops $$!"; done; \
	for run in 1 2 3; do echo "== run $$run of 3"; $(MAKE) --no-print-directory pytest || exit 1; done

test-faults: packages $(VENV)/test
	$(VENV)/bin/python -m pytest -q -s tests/faults.py $(ARGS)

# JavaScript is checked only where a node is there that can; .ci/run always has one.
NPM := $(shell node -e 'process.exit(+(parseInt(process.versions.node) < 18))' 2>/dev/null && command -v npm)

check: $(VENV)/test $(if $(NPM),node_modules/.package-lock.json)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(if $(NPM),$(NPM) run --silent check)

docs: $(VENV)/docs
	$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going -q -b html docs build/docs
	@echo "The site is at build/docs/index.html; serve.py shows it at /docs/"

offline: docs
	$(VENV)/bin/python docs/teaching/offline.py

figures: $(VENV)/compare
	$(VENV)/bin/python -m bench.report.diagrams
	$(VENV)/bin/python -m bench.report.docs -r

$(VENV)/run: requirements.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/servers: requirements.txt servers/requirements.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements.txt $(shell grep -oE '^(redis|prometheus)[^ ]*' servers/requirements.txt)
	@touch $@

$(VENV)/compare: requirements.txt bench/requirements.txt | $(VENV)/bin/python
	$(INSTALL) -r bench/requirements.txt
	@touch $@

$(VENV)/docs: requirements.txt docs/requirements.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements.txt -r docs/requirements.txt
	@touch $@

$(VENV)/test: docs/requirements.txt requirements.txt bench/requirements.txt servers/requirements.txt \
		examples/shop/requirements.txt tests/requirements.txt tests/requirements-no-deps.txt | $(VENV)/bin/python
	$(INSTALL) -r tests/requirements.txt
	$(INSTALL) --no-deps -r tests/requirements-no-deps.txt
	@touch $@

node_modules/.package-lock.json: package-lock.json
	$(NPM) ci --silent --no-audit --no-fund
	@touch $@

# Debian keeps the part of Python that makes virtual environments in a package of its own.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Pushlab needs Python 3.10 or newer: make PYTHON=python3.12 run" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		[ "$$(id -u)" = 0 ] && $(APT) update && $(APT) install -y python3-venv; } || \
		{ echo "Install Python's venv first: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A browser, a proxy, Redis, Prometheus, and what pip needs to compile uWSGI.
DEBIAN := chromium chromium-driver fonts-dejavu-core nginx-light redis-server prometheus \
	build-essential libssl-dev
HEADERS := $(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'

packages: | $(VENV)/bin/python
	@PATH="$$PATH:/usr/sbin"; \
	has() { command -v chromium && command -v chromedriver && command -v nginx && command -v redis-server && \
		command -v prometheus && command -v cc && \
		test -e /usr/include/openssl/ssl.h && $(HEADERS); } >/dev/null 2>&1; \
	has || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && $(APT) update && \
		DEBIAN_FRONTEND=noninteractive $(APT) install -y --no-install-recommends \
			$(DEBIAN) python3-dev >/dev/null; } || \
		{ echo "Install what the tests need first: sudo apt install $(DEBIAN) python3-dev" >&2; \
		  exit 1; }

clean:
	rm -rf .venv* node_modules build .pytest_cache .mypy_cache .ruff_cache
