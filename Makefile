# Everything from a bare Python >= 3.10: `make quickstart` and `make test` make .venv on first use.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUICKSTART_DIR ?= output/quickstart
# Overrides of the quickstart's schedule, e.g. QUICKSTART_ARGS="--iterations 100"
QUICKSTART_ARGS ?=
# Processes of the test suite; each takes a core and up to 5 GB
TEST_WORKERS ?= 2

PYTEST := $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile
# The model, its losses and inference, the metrics, configs and data
CORE_TESTS := $(addprefix tests/,modeling losses inference evaluation config data)

.PHONY: install test test-fast test-slow quickstart lint clean

$(BIN)/.installed: setup.py pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[app,dev]'
	@# A reference for the metrics; it asks for numpy < 2 but runs with newer ones.
	$(BIN)/python -m pip install --quiet --no-deps sgbench==1.0.0
	@# A reference for masks; it asks for an older OpenCV, and through it for numpy < 2.3.
	$(BIN)/python -m pip install --quiet --no-deps label-studio-sdk==2.1.2
	$(BIN)/python -m pip install --quiet appdirs jsf lxml xmljson
	touch $@

install: $(BIN)/.installed

quickstart: $(BIN)/.installed
	$(BIN)/python tools/quickstart.py --output $(QUICKSTART_DIR) $(QUICKSTART_ARGS)

test: $(BIN)/.installed
	$(PYTEST) -m "not slow" tests

test-fast: $(BIN)/.installed
	$(PYTEST) -m "not slow" $(CORE_TESTS)

test-slow: $(BIN)/.installed
	$(PYTEST) -m slow tests

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) output build *.egg-info
