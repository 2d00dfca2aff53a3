# Every target makes the environment that it needs in $(VENV).
# Another interpreter: make test PYTHON=python3.12. Another environment: make test VENV=path.
# No environment and no installation, everything from PYTHON: make test VENV=
# A demo on the first 60 test problems only: make demo LIMIT=60.
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

.PHONY: help demo test coverage test-browser test-gpu test-real check format docs models tutorial site clean
.NOTPARALLEL:

help:
	@echo "make demo          tune, calibrate and evaluate on the embedded model; results in runs/demo"
	@echo "make test          run the tests"
	@echo "make coverage      run the tests and measure their coverage of lines and branches"
	@echo "make test-browser  run the tests of the pages, in chromium with its chromedriver"
	@echo "make test-gpu      run the tests that need a CUDA device"
	@echo "make test-real     run the tests on two real models, which it installs (350 MB)"
	@echo "make check         formatting, lint, types, generated documentation"
	@echo "make format        fix formatting and lint"
	@echo "make docs          write the generated documentation"
	@echo "make models        compare every architecture with its own code, for docs/models.md; NAMES=... only these"
	@echo "make tutorial      run docs/tutorial.ipynb and keep its outputs"
	@echo "make site          build the documentation, with the reference of the package, as site/index.html"

demo: $(runtime)
	$(python) -m dpc run --output runs/demo --methods pretrained,prompt_tuning,dpc,all_corruption $(if $(LIMIT),--limit $(LIMIT))

test: $(develop)
	$(python) -m pytest

# Beside test, because measuring takes half as long again.
coverage: $(develop)
	$(python) -m pytest --cov

test-browser: $(develop)
	$(python) -m pytest -n 0 -m browser tests/browser

test-gpu: $(develop)
	$(python) -m pytest -m gpu tests/test_gpu.py

# Files that git tracks, so that a stray notebook fails no check. A new file counts once git add has added it.
tracked = $(python) scripts/tracked.py

# Two real models, installed into DPC_REAL_WEIGHTS (else ~/.cache/dpc/real-weights) on the first run.
test-real: $(develop)
	$(python) -m pytest -n 0 -s -m real tests/real

check: $(develop)
	$(tracked) .py .ipynb | xargs $(python) -m ruff format --check
	$(tracked) .py .ipynb | xargs $(python) -m ruff check
	$(tracked) .py | grep -E '^(src|scripts|benchmarks)/' | xargs $(python) -m mypy
	$(python) scripts/docs.py --check
	@git ls-files --others --exclude-standard '*.py' 2>/dev/null | sed 's/^/not checked, because git does not track it: /'

format: $(develop)
	$(tracked) .py .ipynb | xargs $(python) -m ruff format
	$(tracked) .py .ipynb | xargs $(python) -m ruff check --fix

docs: $(develop)
	$(python) scripts/docs.py

# Without the network, and on one thread a process.
models: $(develop)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONPATH=scripts $(python) -m tests.architectures.record $(NAMES)
	$(python) scripts/docs.py

tutorial: $(develop)
	$(python) scripts/tutorial.py

site: $(develop)
	NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict

clean:
	rm -rf build dist site src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

ifneq ($(strip $(VENV)),)
# An environment without pip is incomplete: making it was interrupted.
define environment
@test -x $(VENV)/bin/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "dpc needs Python 3.11 or newer, and $(PYTHON) is older: choose another, as in make test PYTHON=python3.12" >&2; exit 2; }
@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
endef

$(runtime): pyproject.toml constraints.txt
	$(environment)
	$(install) -e .
	@touch $@

$(develop): pyproject.toml constraints.txt
	$(environment)
	$(install) -e '.[dev,docs]'
	@touch $(runtime) $@
endif
