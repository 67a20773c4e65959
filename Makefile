# `make test` and `make demo` need Python 3.11 or newer and nothing else: they make .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help install demo test notebooks pytest lint export readme clean

help:
	@echo 'make demo       the whole chain on phantoms, in a few minutes: work/demo'
	@echo 'make test       everything that must hold: notebooks, tests, lint, and that the package is what the notebooks export'
	@echo 'make export     write mammo_kit/ and README.md from nbs/'
	@echo 'make clean      remove .venv and work/demo'

$(INSTALLED): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/mammo-kit demo work/demo

test: lint notebooks pytest

lint: $(INSTALLED)
	$(BIN)/ruff check

notebooks: $(INSTALLED)
	$(BIN)/nbdev_test --path nbs --n_workers 2

pytest: $(INSTALLED)
	$(BIN)/pytest

# nbdev_export does not delete modules whose notebook is gone, hence the first line.
export: $(INSTALLED)
	rm -rf mammo_kit
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(MAKE) readme

readme: $(INSTALLED)
	$(BIN)/jupyter nbconvert --log-level WARN --to markdown --output-dir . --output README nbs/index.ipynb

clean:
	rm -rf .venv work/demo
