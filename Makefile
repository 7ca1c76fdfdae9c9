# What a newcomer types. Needs python3 (3.11 or newer) with pip; everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PHOTOS := photos
FILMS := films
DEMO_DATA := demo_data
# Doubly quiet: pip would warn of every quirk of the configured package index. Errors still show.
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# Each worker loads torch once for itself, and a file's fixtures once: two workers by file suit a small machine.
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: help demo test lint format bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

demo: $(VENV)/core.installed ## index real photographs and films, and find some of them by meaning (no torch)
	$(BIN)/python demo/gather_photos.py $(PHOTOS)
	$(BIN)/python demo/gather_photos.py $(FILMS) --table demo/films.toml
	$(BIN)/xsearch index ./$(PHOTOS) ./$(FILMS) --data $(DEMO_DATA)
	$(BIN)/xsearch query "a cat" -k 3 --data $(DEMO_DATA)
	$(BIN)/xsearch query "snowy mountains" -k 3 --data $(DEMO_DATA)
	$(BIN)/xsearch query "a cup of coffee" -k 3 --data $(DEMO_DATA)
	$(BIN)/xsearch query "a rabbit in a meadow" --kind frame -k 1 --data $(DEMO_DATA)

test: lint ## install what development needs (with torch), then lint and test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/dev.installed ## ruff, mypy, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.installed ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/core.installed ## list the benchmarks; RUN=name runs one, ARGS="..." are its arguments
	@$(if $(RUN),$(BIN)/python benchmarks/$(RUN).py $(ARGS),\
	for file in $(filter-out benchmarks/report.py,$(wildcard benchmarks/*.py)); do \
		printf 'make bench RUN=%-14s %s\n' "$$(basename "$$file" .py)" "$$(sed -n '1s/"""//gp' "$$file")"; done)

clean: ## remove the environment, the photographs, the demo's library and caches
	rm -rf $(VENV) $(PHOTOS) $(FILMS) $(DEMO_DATA) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: $(PYTHON) is missing or older than 3.11; install Python 3.11 or newer, or name one: make PYTHON=python3.12"; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) lacks venv or ensurepip; install them (on Debian and Ubuntu: the package python3-venv)"; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/dev.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/core.installed
