# One folder, .venv, holds everything that is installed; in an environment of your own, `pip install -e .` does the same.

PYTHON ?= python3
VENV   := .venv/bin/python

.PHONY: help hhl arn ptgan dcgan_lsro spgan test reports data lint clean

help:
	@echo "make hhl      set up and run HHL's demo (no download of data, no GPU, about five minutes)"
	@echo "make arn      the same for ARN; also ptgan, dcgan_lsro, and spgan (which installs TensorFlow first)"
	@echo "make test     set up and run the tests"
	@echo "make reports  what has been run; the pages behind reports/index.html and the tables of the READMEs from the records"
	@echo "make data     draw the two synthetic domains"
	@echo "make lint     formatting, lint and types"

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.10 or newer is needed, $(PYTHON) is %d.%d; use make PYTHON=python3.12, say" % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --quiet --upgrade pip
	$(VENV) -m pip install --quiet --editable ".[dev]"
	@touch $@

.venv/tensorflow: .venv/installed
	$(VENV) -m pip install --quiet --editable ".[dev,spgan]"
	@touch $@

spgan: .venv/tensorflow
hhl arn ptgan dcgan_lsro spgan: .venv/installed
	cd $@ && ../$(VENV) train.py $(ARGS)

test: .venv/installed
	$(VENV) -m pytest -n auto --dist loadfile $(ARGS)

reports: .venv/installed
	$(VENV) -m reports status
	$(VENV) -m reports build

data: .venv/installed
	$(VENV) -m common.datasets make synthetic-duke
	$(VENV) -m common.datasets make synthetic-market

lint: .venv/installed
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m mypy

clean:
	rm -rf .venv build *.egg-info
