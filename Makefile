# MUSE by make. `make` alone lists the targets; each installs what it needs into .venv first.
# Nothing here touches the system, except `make system-packages`, which says so.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
BASE := .venv/.musekit-base
DEV := .venv/.musekit-installed
NOTEBOOKS ?= $(sort $(wildcard notebooks/*.ipynb))
ARGS ?=
WORKERS ?= 2

# Debian's names. chromium: the tests of the widgets. g++: torch.compile. The rest: a one-machine Slurm and shellcheck.
SYSTEM_PACKAGES := chromium g++ slurmctld slurmd slurm-client munge shellcheck

# What `make demo` generates. These five are a user's text, never code: $(value ...) keeps make from expanding them, and
# the recipe reads them from the environment, where the shell does not. (SECONDS alone would be bash's clock.)
PROMPT ?= a sad piano melody
N ?= 4
SEED ?= 0
SECONDS ?= 12
OUT ?= demo
$(foreach v,PROMPT N SEED SECONDS OUT,$(eval override $v := $$(value $v)))
export DEMO_PROMPT := $(value PROMPT)
export DEMO_N := $(value N)
export DEMO_SEED := $(value SEED)
export DEMO_SECONDS := $(value SECONDS)
export DEMO_OUT := $(value OUT)

# The first of these that runs and is 3.11 or 3.12 makes .venv. `make PYTHON=/path/to/python3.12 ...` names one.
PYTHON ?=
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3 python)
RIGHT_PYTHON := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))

.PHONY: help demo test test-long lint system-packages lab app notebooks check-notebooks samples tables results pictures poster constraints clean .venv

help: ## list the targets
	@echo 'usage: make TARGET [VARIABLE=value ...]'
	@echo
	@awk -F ':.*## ' '/^[.a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'make demo takes PROMPT="a sad piano melody" N=4 SEED=0 SECONDS=12 OUT=demo; put a dollar sign in single quotes.'
	@echo 'make test, test-long, lab and app pass ARGS="..." on, for example: make test ARGS="-k flow -x"; WORKERS=0 tests in one process.'

demo: $(BASE) ## generate N different pieces for PROMPT into the folder OUT
	@$(BIN)/musekit generate --n "$$DEMO_N" --seed "$$DEMO_SEED" --seconds "$$DEMO_SECONDS" --out "$$DEMO_OUT" -- "$$DEMO_PROMPT"

test: lint ## lint and test; tests that need a missing program are skipped and say how to install it
	$(BIN)/python -m pytest -q -m "not long" -n $(WORKERS) $(ARGS)

test-long: $(DEV) ## the tests that take minutes
	$(BIN)/python -m pytest -q -m long -n $(WORKERS) $(ARGS)

lint: $(DEV) ## ruff over code and notebooks
	$(BIN)/ruff check

# The setting allows uploads of any length (musekit.lab.TORNADO_SETTINGS).
lab: $(DEV) ## open the latent lab in JupyterLab
	$(BIN)/jupyter lab --ServerApp.tornado_settings='{"websocket_max_message_size": 537919488}' $(ARGS) notebooks/05_latent_lab.ipynb

app: $(DEV) ## serve the latent lab as a web page (Voila, on this machine only)
	$(BIN)/python scripts/app.py $(ARGS)

notebooks: $(DEV) ## execute the notebooks in place and check them (NOTEBOOKS="..." picks some)
	$(BIN)/python scripts/run_notebooks.py $(NOTEBOOKS)

check-notebooks: $(DEV) ## check the notebooks without running them
	$(BIN)/python scripts/run_notebooks.py --check $(NOTEBOOKS)

samples: $(DEV) ## make the README's samples again (samples/*.mp3, results/samples.json): after other weights
	$(BIN)/python scripts/samples.py
	$(BIN)/python scripts/tables.py

tables: $(DEV) ## write the tables of README, docs/results.md and the model card from results/
	$(BIN)/python scripts/tables.py

# In this order: later commands read what earlier ones keep under MUSEKIT_HOME, and each resumes where it was stopped.
# The benchmarks come last and need an idle machine. GPU measurements: slurm/bench.sh.
results: $(DEV) ## measure again all that a CPU can: hours; the same command resumes
	$(BIN)/musekit cache --corpus scores --kinds clips
	$(BIN)/musekit eval all --split test
	$(BIN)/musekit eval gallery
	$(BIN)/python scripts/samples.py
	MUSE_RESULTS=results $(BIN)/python -m pytest -q -m long -k curves
	MUSE_RESULTS=results $(BIN)/python -m pytest -q -m long -k twenty_kills
	set -e; for what in end-to-end stage1 stage2 sizes lab ddp; do $(BIN)/musekit bench $$what; done
	$(BIN)/python scripts/tables.py

pictures: $(DEV) ## take the pictures of the lab in notebook 05 anew (needs chromium)
	MUSE_PICTURES=notebooks/pictures $(BIN)/python -m pytest -q -m long tests/test_pictures.py

poster: $(DEV) ## draw the figures and the A0 poster (poster/poster.pdf, .png) from results/
	$(BIN)/python -m poster

constraints: $(DEV) ## write constraints.txt from what .venv holds (after testing it)
	$(BIN)/python scripts/freeze_constraints.py

.venv: $(BASE) ## only install what sampling and training need, as `make demo` does; all else installs everything

# An existing .venv of the right version is used, whoever made it.
$(BASE) $(DEV): pyproject.toml constraints.txt
	@set -eu; \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
	    for p in $(PYTHONS); do \
	        if "$$p" -c '$(RIGHT_PYTHON)' 2>/dev/null; then "$$p" -m venv --clear .venv; break; fi; \
	    done; \
	fi; \
	if ! $(BIN)/python -c '$(RIGHT_PYTHON)' 2>/dev/null; then \
	    echo 'error: no Python 3.11 or 3.12 with venv among: .venv $(PYTHONS). Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11 (Debian: apt install python3-venv), and remove a .venv of another version.' >&2; exit 1; \
	fi; \
	echo 'Installing musekit and the packages of constraints.txt into .venv (the first time: minutes)...'; \
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.$(if $(filter $(DEV),$@),[dev])' -c constraints.txt; \
	touch $(BASE) $@

system-packages: ## Debian, as root or with sudo: install chromium and Slurm for the tests that need them
	@set -eu; \
	command -v apt-get >/dev/null || { \
	    echo 'error: this is not Debian or Ubuntu (no apt-get). Install yourself: $(SYSTEM_PACKAGES)' >&2; exit 1; }; \
	missing=; \
	for p in $(SYSTEM_PACKAGES); do \
	    dpkg-query -W -f '$${Status}' "$$p" 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	if [ -z "$$missing" ]; then echo 'Already installed: $(SYSTEM_PACKAGES)'; exit 0; fi; \
	sudo=; if [ "$$(id -u)" != 0 ]; then sudo=sudo; echo 'Not root: using sudo, which may ask for your password.'; fi; \
	echo "Installing Debian packages:$$missing"; \
	$$sudo apt-get update -qq; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $$missing

clean: ## remove caches and build leftovers (not .venv, not what you generated)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache test-artefacts
	find musekit scripts tests notebooks poster '(' -name __pycache__ -o -name .ipynb_checkpoints ')' -prune -exec rm -rf {} +
