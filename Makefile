# make demo           set everything up and watch a network learn to learn (about three minutes)
# make test           set everything up, then style, types, and the tests that need neither data nor much time
# make test-fast      most of those tests, with fewer examples each and without doctests: under a minute
# make test-all       style, types and every test with more examples each, also the slow ones and those of QUICKSTUDY_DATA
# make coverage       the fast tests, and which lines they don't reach
# make lint           style
# make types          types of the library; what benchmarks, tools and examples call
# make format         mend the style
# make docs           build the site into site/
# make docs-serve     show the site, and follow changes
# make tables         render benchmarks/results into the docs and the README
# make build          build the wheel and the sdist into dist/, and try the wheel in an environment of its own
# make release-check  everything that must hold before a release
# make setup          make the virtual environment in .venv
# make torchvision    make the second virtual environment, in .venv-torchvision (several GB), for timm and torchvision
# make clean          remove what these make
# make help           show this

PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
# torch comes first and by its exact version: a range would let the resolver take another build
TORCH = "$$(grep '^torch==' constraints.txt)"
QUICK := not slow and not data and not browser and not torchvision
.DEFAULT_GOAL := help
.PHONY: torchvision help setup demo test test-fast test-all coverage lint types format docs docs-setup docs-serve tables build \
	release-check clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quickstudy needs Python 3.11 or newer, and $(PYTHON) is %d.%d: run make PYTHON=python3.12 …" % sys.version_info[:2])'
	@echo "Setting up .venv (once; a few minutes, mostly the download of torch)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP_INSTALL) $(TORCH)
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev,photos]'
	@touch $@

torchvision: .venv-torchvision/.installed

# torchvision loads beside the build of torch that it was made with, not beside the one of constraints.txt
.venv-torchvision/.installed: pyproject.toml constraints.txt
	@echo "Setting up .venv-torchvision (once; many minutes, several GB)"
	@test -x .venv-torchvision/bin/python || $(PYTHON) -m venv .venv-torchvision
	@grep -v '^torch==' constraints.txt > .venv-torchvision/constraints.txt
	@.venv-torchvision/bin/python $(PIP_INSTALL) torch==2.14.1 torchvision==0.29.1
	@.venv-torchvision/bin/python $(PIP_INSTALL) -c .venv-torchvision/constraints.txt \
		-e '.[photos,timm,torchvision,hf,onnx]' onnx pytest pytest-xdist hypothesis
	@touch $@

demo: setup
	@$(BIN)/quickstudy demo

test: setup lint types
	@env -u QUICKSTUDY_DATA $(BIN)/python -m pytest -q -n 2 -m "$(QUICK)" --hypothesis-profile=brief

test-fast: setup
	@env -u QUICKSTUDY_DATA OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "$(QUICK) and not medium" --hypothesis-profile=fast tests

test-all: setup lint types
	@$(BIN)/python -m pytest -q -n 2
	@if $(MAKE) --no-print-directory torchvision; then \
		.venv-torchvision/bin/python -m pytest -q tests/encoders/test_pretrained.py tests/data/test_augment.py; \
	else echo "Tests of timm and torchvision skipped: .venv-torchvision can't be made here"; fi

coverage: setup
	@env -u QUICKSTUDY_DATA $(BIN)/python -m pytest -q -n 2 -m "$(QUICK)" --cov --cov-report=term-missing:skip-covered

lint: setup
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/lint-imports --no-cache

types: setup
	@$(BIN)/pyright
	@$(BIN)/pyright -p tools/pyrightconfig.json

format: setup
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

docs-setup: setup
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[docs]'

docs: docs-setup
	@$(BIN)/mkdocs build --strict

docs-serve: docs-setup
	@$(BIN)/mkdocs serve

tables: setup
	@$(BIN)/python -m tools.tables

build: setup
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist
	@trial=$$(mktemp -d) && trap 'rm -rf "$$trial"' EXIT && set -e && \
		$(BIN)/python -m venv "$$trial" && \
		"$$trial/bin/python" $(PIP_INSTALL) $(TORCH) && \
		"$$trial/bin/python" $(PIP_INSTALL) -c constraints.txt dist/*.whl && \
		cd "$$trial" && \
		bin/quickstudy --version && \
		bin/python -W error -c 'import quickstudy; [getattr(quickstudy, name) for name in quickstudy.__all__]' && \
		bin/quickstudy recipes > /dev/null && \
		echo "The wheel installs and runs"

release-check: setup
	@$(BIN)/python -m tools.release_check
	@$(BIN)/python -m tools.tables --check
	@$(MAKE) test-all docs build

clean:
	rm -rf .venv .venv-torchvision site dist .coverage
