# Two commands do all: `make demo` and `make test`. Both make .venv themselves and can be run again.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# What the comparisons with PyTorch are tested with; `make test TORCH=` leaves them out.
TORCH ?= torch==2.13.0

.PHONY: demo test test-all slow lint bench docs release-check clean

demo: $(VENV)/.installed
	$(BIN)/spectral-jax demo

test: $(VENV)/.installed-test # bytecode is kept, whatever the machine's setting: dozens of processes start
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: $(VENV)/.installed-test # on other Pythons, versions and processors, and from a wheel: see tools/matrix.py
	$(BIN)/python tools/matrix.py $(ARGS)

slow: $(VENV)/.installed-test
	XLA_FLAGS= $(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

release-check: $(VENV)/.installed-test # builds what a release consists of, and tries it in empty environments
	$(BIN)/python tools/matrix.py wheel sdist

docs: $(VENV)/.installed-docs # warnings are errors; the tutorials run; then every link of the built pages is followed
	$(BIN)/python -m sphinx -W --keep-going -q -j 2 docs docs/_build/html
	$(BIN)/python tools/check_site.py docs/_build/html

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/all.py

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, this is {v}")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[view]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[view,test,dev]' $(TORCH)
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) data/demo runs/demo docs/_build
