# demo and test work on a fresh machine; they make $(VENV) themselves.
# Another interpreter: make test PYTHON=python3.12. An environment of yours: make test VENV=path.
# No environment and no installation, everything from PYTHON: make test VENV=
PYTHON ?= python3
VENV ?= .venv

ifeq ($(strip $(VENV)),)
python := $(PYTHON)
else
python := $(VENV)/bin/python
runtime := $(VENV)/.dpc-runtime
develop := $(VENV)/.dpc-develop
endif

install = $(python) -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-browser test-gpu check format docs clean
.NOTPARALLEL:

help:
	@echo "make demo          tune, calibrate and evaluate on the embedded model; results in runs/demo"
	@echo "make test          run the tests"
	@echo "make test-browser  run the tests of the pages, in Debian's chromium with its chromedriver"
	@echo "make test-gpu      run the tests that need a CUDA device"
	@echo "make check         formatting, lint, types, generated documentation"
	@echo "make format        mend formatting and lint"
	@echo "make docs          write the generated documentation"

demo: $(runtime)
	$(python) -m dpc run --output runs/demo --methods pretrained,prompt_tuning,dpc,all_corruption

test: $(develop)
	$(python) -m pytest

test-browser: $(develop)
	$(python) -m pytest -n 0 -m browser tests/browser

test-gpu: $(develop)
	$(python) -m pytest -m gpu tests/test_gpu.py

check: $(develop)
	$(python) -m ruff format --check
	$(python) -m ruff check
	$(python) -m mypy
	$(python) scripts/docs.py --check

format: $(develop)
	$(python) -m ruff format
	$(python) -m ruff check --fix

docs: $(develop)
	$(python) scripts/docs.py

clean:
	rm -rf build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

ifneq ($(strip $(VENV)),)
# An environment without pip is one that was left half made.
define environment
@test -x $(VENV)/bin/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "dpc needs Python 3.11 or newer and $(PYTHON) is not: name one that is, as in make test PYTHON=python3.12" >&2; exit 2; }
@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
endef

$(runtime): pyproject.toml constraints.txt
	$(environment)
	$(install) -e .
	@touch $@

$(develop): pyproject.toml constraints.txt
	$(environment)
	$(install) -e '.[dev]'
	@touch $(runtime) $@
endif
