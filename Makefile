# make demo   set everything up and watch a network learn to learn (about three minutes)
# make test   set everything up, then style, types and tests
# make docs   build the site into site/
# make tables render benchmarks/results into the docs and the README

PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types docs tables clean

help:
	@sed -n 's/^# //p' Makefile

setup: .venv/.installed

# torch comes first and by its exact version: a range would let the resolver take another build
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quickstudy needs Python 3.11 or newer, and $(PYTHON) is %d.%d: run make PYTHON=python3.12 …" % sys.version_info[:2])'
	@echo "Setting up .venv (once; a few minutes, mostly the download of torch)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/quickstudy demo

test: setup lint types
	@$(BIN)/python -m pytest -q -n 2

lint: setup
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .

types: setup
	@$(BIN)/pyright

docs: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@$(BIN)/mkdocs build --strict

tables: setup
	@$(BIN)/python -m benchmarks.tables

clean:
	rm -rf .venv site
