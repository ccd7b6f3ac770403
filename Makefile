PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test test-quick bench bench-quick gpu

install: $(VENV)/installed

# By uv, in a quarter of the time that pip takes; by pip, where uv cannot be had.
TESTED = --constraint constraints.txt --editable '.[test]'

demo: $(VENV)/installed
	$(BIN)/python -m hetero_brain.experiment recipes/VoicePrompts/demo.yaml

# A thread each: the models of tests are too small for more. A process more than cores,
# since some tests wait for SLURM or for signals.
PROCESSES = $$(($$(getconf _NPROCESSORS_ONLN) + 1))
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(PROCESSES) \
    --maxprocesses 5 --dist loadscope --no-loadscope-reorder
QUICK = architecture bilevel brain plan cpu layers encoder bestrq cpc cross_entropy graphs

test: $(VENV)/installed
	$(PYTEST)

# Algorithm, plan, models and objectives.
test-quick: $(VENV)/installed
	$(PYTEST) $(QUICK:%=tests/unit/test_%.py)

bench: $(VENV)/installed $(VENV)/compared
	$(BIN)/python -m tests.benchmarks

bench-quick: $(VENV)/installed $(VENV)/compared
	$(BIN)/python -m tests.benchmarks --quick

# On a machine with a GPU: that its results are right, and how fast they come.
gpu: $(VENV)/installed
	$(BIN)/python -m tests.gpu

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@echo "Installing into $(VENV): about 6 GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv && $(BIN)/uv pip install --python $(BIN)/python $(TESTED) \
	    || $(BIN)/pip install $(TESTED)
	touch $@

# What the benchmarks compare with. None is needed otherwise; one that does not install is
# named with its error. learn2learn's C code is made anew, as it is too old for Python 3.11.
$(VENV)/compared: $(VENV)/installed
	mkdir -p results/bench
	for library in higher torchopt; do \
	    $(BIN)/pip install --quiet $$library 2> results/bench/$$library.error || true; \
	done
	( $(BIN)/pip install --quiet gym requests torchvision && \
	  $(BIN)/pip install --quiet --no-deps --use-pep517 \
	      --config-settings=--build-option=build_ext learn2learn \
	) 2> results/bench/learn2learn.error || true
	touch $@
