# Two commands set everything up: `make table1` and `make test`. Both build the environment first.

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$p && break; \
	done)
UV := uv==0.13.9
LOCK := requirements/cpu.txt

# What is installed is named by the lock's contents: a checkout that only touches files rebuilds
# nothing, another lock starts an empty environment.
INSTALLED := $(VENV)/.installed-$(firstword $(shell grep -v "^ *\#" $(LOCK) | cksum))

.PHONY: table1 test lint docs lock environment clean help

table1: environment  ## make reports/table1.md with everything it needs
	$(VENV)/bin/snakemake --cores all reports/table1.md

test: environment  ## run the tests
	$(VENV)/bin/python -m pytest -n logical --dist worksteal

lint: environment  ## check style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/snakefmt --check Snakefile workflow
	PYTHONPATH=. $(VENV)/bin/lint-imports

docs: environment  ## build the documentation into docs/_build/html; warnings are errors
	$(VENV)/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html

environment: $(INSTALLED)  ## build the environment in $(VENV)

$(INSTALLED):
	@if [ -z "$(PYTHON)" ]; then \
		echo "arrag needs Python 3.11 and found none: install it (with its venv module), or name" \
			"it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v[:2] != (3, 11) and \
		"arrag needs Python 3.11, but $(PYTHON) is %d.%d; set PYTHON to a python3.11" % v[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(VENV)/bin/uv pip install --python $(VENV)/bin/python --compile-bytecode -r $(LOCK)
	$(VENV)/bin/uv pip install --python $(VENV)/bin/python --no-deps -e .
	touch $@

lock: environment  ## bring the pinned versions up to date with pyproject.toml
	$(VENV)/bin/uv pip compile pyproject.toml --extra cpu --extra dev --python-version 3.11 \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		-o $(LOCK)
	$(VENV)/bin/python requirements/conda.py > environment.yml

clean:  ## remove results and logs; data, reports, trainings and the environment stay
	find results -mindepth 1 -maxdepth 1 ! -name train -exec rm -rf {} + 2>/dev/null || true
	rm -rf logs .snakemake .pytest_cache .ruff_cache

help:
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/'
