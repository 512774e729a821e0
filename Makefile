# Concord. Each target sets up the .venv that it needs; the first call takes minutes, the later ones nothing.
#
#   make bench                      every suite, small networks, no GPU needed
#   make bench SUITE=NAME           one table
#   make bench SIZE=quick           a first table in minutes, in results/embedded/quick
#   make bench SIZE=full            as many samples as the papers took
#   make bench PROFILE=paper        the papers' data and checkpoints
#   make bench ENGINE=ray           on a cluster (docs/engines)
#   make test ARGS="-k store -x"    anything after the command
#   make test WORKERS=8             more processes than two
#   make compare BASE=main          against the baseline committed there

SUITE   ?=
SIZE    ?=
PROFILE ?= embedded
DEVICE  ?=
DEVICES ?=
ENGINE  ?=
BASE    ?=
WORKERS ?= 2
ARGS    ?=

.DEFAULT_GOAL := help
PYTHON  := .venv/bin/python
CONCORD := .venv/bin/concord
READY   := .venv/.ready

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export UV_HTTP_TIMEOUT ?= 300
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
export DVC_SITE_CACHE_DIR ?= $(CURDIR)/.dvc/tmp/site
export DVC_NO_ANALYTICS ?= 1
unexport VIRTUAL_ENV PYTHONHOME

# Without compiled modules every start of Python compiles torch and diffusers again, which takes 15 seconds of a core.
unexport PYTHONDONTWRITEBYTECODE

# Trust the certificates of the system where it has some, as pip does: networks with their own authority need it.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem),)
export UV_SYSTEM_CERTS ?= 1
endif

# `--name value` when the variable has a value, else nothing
option = $(if $($(2)),--$(1) "$($(2))")
PICK   = $(call option,profile,PROFILE) $(call option,suite,SUITE)

.PHONY: bench test test-long compared report compare sensitivity baseline train lint clean help lock

bench: $(READY) ## Run what is out of date, score it, write the report (SUITE= SIZE=quick|full PROFILE= DEVICE= DEVICES=cuda:0,cuda:1 ENGINE=ray)
	@CONCORD_UNDER=$$PPID $(CONCORD) bench $(PICK) $(call option,size,SIZE) $(call option,device,DEVICE) $(call option,devices,DEVICES) $(call option,engine,ENGINE) $(ARGS)
	@[ "$(SIZE)" = quick ] || $(CONCORD) report --where --brief $(PICK)

test: $(READY) ## Run the tests (ARGS="-k store", WORKERS=2 processes); all but the long ones
	@$(PYTHON) -m pytest -n $(WORKERS) --dist worksteal -m "not long" $(ARGS)

test-long: $(READY) ## Run the long tests: kill loops, whole runs at full width
	@$(PYTHON) -m pytest -n $(WORKERS) --dist worksteal -m long $(ARGS)

compared: $(READY) ## Write reports/compared.yaml anew: what the tests compare with the authors' code, and the differences
	@rm -f reports/compared.yaml
	@CONCORD_WRITE_COMPARED=1 $(PYTHON) -m pytest -q -n 0 $(shell grep -l "^from compared import" tests/*/*.py) $(ARGS)

report: $(READY) ## Write the tables and figures again from the stored results
	@$(CONCORD) report $(PICK) $(ARGS)

compare: $(READY) ## Run the rows that a change touches, saying why, and compare with the committed baseline (BASE=revision)
	@CONCORD_UNDER=$$PPID $(CONCORD) bench $(PICK) $(call option,device,DEVICE)
	@$(CONCORD) compare $(BASE) $(PICK) $(ARGS)

sensitivity: $(READY) ## Measure which known failures each suite finds at its n (SUITE=; tens of minutes; not part of bench)
	@$(PYTHON) -m concord.reports.validation.sensitivity $(call option,suite,SUITE) $(ARGS)

baseline: $(READY) ## Take the stored results as the committed baseline, and say what changed
	@$(CONCORD) compare --accept $(PICK) $(ARGS)

train: $(READY) ## Remake the embedded weights (never needed to run the benchmark)
	@$(CONCORD) train --all $(call option,device,DEVICE) $(ARGS)

lint: $(READY) ## Style, types and the order of imports
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-cache

clean: ## Remove results and caches (keeps .venv, downloads and weights)
	rm -rf results .dvc/tmp .dvc/cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name .venv -prune -o -name .git -prune -o -type d -name __pycache__ -exec rm -rf {} +

lock: $(READY) ## Resolve requirements.lock again after a change of pyproject.toml
	@.venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras \
	    --generate-hashes --no-header --quiet $(ARGS) -o requirements.lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

# ---------------------------------------------------------------------------------------------------------------------
# The environment: a Python of 3.11 to 3.13, then the uv that the lock pins, then the lock itself, hashes checked, all of
# it compiled once: a call that may write no bytecode would compile torch each time. What else was installed stays.
# The stamp holds the path of the checkout, so that a folder that was moved is set up again.

ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

$(READY): requirements.lock pyproject.toml
	@set -e; \
	if ! .venv/bin/python -c '' 2>/dev/null; then \
	    for python in python3.11 python3.12 python3.13 python3 python none; do \
	        "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && break; \
	    done; \
	    if [ "$$python" = none ]; then \
	        echo "make: no Python 3.11, 3.12 or 3.13 on the PATH; install one and run make again" >&2; exit 2; \
	    fi; \
	    echo "Setting up .venv with $$("$$python" --version); the first time takes some minutes and about 7 GB of disk"; \
	    "$$python" -m venv --clear .venv || { \
	        echo "make: this Python cannot make environments; install its venv module (Debian: python3-venv)" >&2; exit 2; }; \
	fi; \
	wanted=$$(sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock); \
	if [ "$$(.venv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$$wanted" ]; then \
	    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null; \
	    sed -n '/^uv==/,/# via/p' requirements.lock > .venv/uv.txt; \
	    .venv/bin/python -m pip install --quiet --require-hashes -r .venv/uv.txt; \
	fi; \
	cache="$${UV_CACHE_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/uv}"; \
	{ mkdir -p "$$cache" && [ -w "$$cache" ]; } 2>/dev/null || export UV_CACHE_DIR=.cache/uv; \
	.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r requirements.lock; \
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .; \
	.venv/bin/python -m compileall -q concord >/dev/null || true; \
	own=$$(.venv/bin/uv pip list --python .venv/bin/python --format freeze 2>/dev/null | cut -d= -f1 | cut -d' ' -f1 | \
	    grep -vixF -e concord -e pip -e setuptools | while read -r name; do \
	        grep -qi "^$$name==" requirements.lock || printf ' %s' "$$name"; done); \
	[ -z "$$own" ] || echo "Kept in .venv beside requirements.lock:$$own"; \
	printf '%s\n' "$(CURDIR)" > $@
