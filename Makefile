PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test

demo: $(VENV)/installed
	$(BIN)/python -m hetero_brain.experiment recipes/VoicePrompts/demo.yaml

test: $(VENV)/installed
	$(BIN)/python -m pytest

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
