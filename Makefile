# `make test` and `make demo` need Python 3.11 or newer and nothing else: they make .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
KAGGLE := .venv-kaggle/bin
KAGGLE_INSTALLED := .venv-kaggle/installed
# Kaggle's Python is 3.12; where there is none, PYTHON has to do.
KAGGLE_PYTHON ?= $(firstword $(shell for p in python3.12 "$$(pyenv root 2>/dev/null)"/versions/3.12.*/bin/python; \
	do $$p -c 'import sys; print(sys.executable)' 2>/dev/null; done) $(PYTHON))
# What is not about a kernel's work, or slow: the project itself, its dealings with Kaggle, commands, profile, drawing faults.
KAGGLE_WITHOUT ?= $(foreach t,project bundle publish fake_kaggle local_kaggle cli machine faults,--ignore=test_$t.py) \
	--deselect=tests/test_artifacts.py::test_the_table_in_the_benchmarks_is_what_the_rules_do \
	--deselect=tests/test_report.py::test_5000_images_fit_60_mb

.PHONY: help install demo test notebooks pytest lint export readme test-kaggle clean

help:
	@echo 'make demo         the whole chain on phantoms, in a few minutes: work/demo'
	@echo 'make test         everything that must hold: notebooks, tests, lint, and that the package is what the notebooks export'
	@echo 'make test-kaggle  the tests of the library as the kernels install it, at the versions of Kaggle'"'"'s image'
	@echo 'make export       write mammo_kit/ and README.md from nbs/'
	@echo 'make clean        remove .venv, .venv-kaggle and work/demo'

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

# Small images are learnt from fastest on one thread, and threads that wait for each other are slow where two notebooks run.
notebooks pytest: export OMP_NUM_THREADS = 1

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

$(KAGGLE_INSTALLED): constraints-kaggle.txt
	$(KAGGLE_PYTHON) -m venv --clear .venv-kaggle
	$(KAGGLE)/pip install --quiet --disable-pip-version-check --requirement constraints-kaggle.txt
	@touch $@

# The wheels are put together and installed as for the kernels; from tests/ no Python sees the checkout's mammo_kit.
test-kaggle: LIBRARY := work/kaggle/test-library
test-kaggle: $(INSTALLED) $(KAGGLE_INSTALLED)
	$(BIN)/python -c 'import pathlib, mammo_kit.bundle as b; b.build_library(pathlib.Path("$(LIBRARY)"), "tester", dirty=True)'
	@$(KAGGLE)/pip uninstall --quiet --yes mammo_kit
	$(KAGGLE)/python -m pip install --no-index --no-deps --find-links $(LIBRARY) --requirement $(LIBRARY)/requirements.txt
	cd tests && ../$(KAGGLE)/pytest $(KAGGLE_WITHOUT)

clean:
	rm -rf .venv .venv-kaggle work/demo
