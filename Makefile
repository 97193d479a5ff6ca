# Two commands of the README: `make demo` and `make test`. Each sets up .venv on its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Threads that wait for each other at the end of every small operation must sleep soon: spinning costs seconds per
# step as soon as anything else runs on the machine.
export GOMP_SPINCOUNT ?= 1000

.PHONY: demo test lint clean

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo 'installing requirements.txt into $(VENV): a few minutes, about 6 GB'
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.txt
	touch $@

demo: $(VENV)/.installed
	@echo 'starting: libraries take some seconds to load, the demo some minutes'
	$(BIN)/python -m ex_stage1 with demo

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest --durations=15 $(TESTS)

clean:
	rm -rf $(VENV) outputs resources/demo
