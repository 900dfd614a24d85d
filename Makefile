# MUSE by make. `make` alone lists what there is; every target installs what it needs into .venv first.
#
# Nothing here touches the system, except `make system-packages`, which says so.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
STAMP := .venv/.musekit-installed
NOTEBOOKS ?= $(sort $(wildcard notebooks/*.ipynb))
ARGS ?=
WORKERS ?= 2

# Debian's names. chromium: the tests of the widgets. g++: what torch.compile calls. The rest: a real one-machine Slurm
# for the tests of slurm/, and what checks its scripts.
SYSTEM_PACKAGES := chromium g++ slurmctld slurmd slurm-client munge shellcheck

# What `make demo` is asked for.
PROMPT ?= a sad piano melody
N ?= 4
SEED ?= 0
SECONDS ?= 12
OUT ?= demo

# These five are a person's text, never code. make expands a `$` in a variable from its command line whenever it is
# used, and also when it exports it, so take each literally first ($(value ...) does not expand). The recipe
# then reads them as "$$DEMO_..." from the environment, where quotes, `$` and backticks mean nothing to the shell.
# (The prefix is needed: SECONDS is a clock in bash.)
$(foreach v,PROMPT N SEED SECONDS OUT,$(eval override $v := $$(value $v)))
export DEMO_PROMPT := $(value PROMPT)
export DEMO_N := $(value N)
export DEMO_SEED := $(value SEED)
export DEMO_SECONDS := $(value SECONDS)
export DEMO_OUT := $(value OUT)

# The first of these that runs and is 3.11 or 3.12 makes .venv. `make PYTHON=/path/to/python3.12 ...` picks one.
PYTHON ?=
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3 python)
RIGHT_PYTHON := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))

.PHONY: help demo test test-long lint system-packages lab app notebooks check-notebooks samples results poster constraints clean .venv

help: ## list the targets
	@echo 'usage: make TARGET [VARIABLE=value ...]'
	@echo
	@awk -F ':.*## ' '/^[.a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'make demo takes PROMPT="a sad piano melody" N=4 SEED=0 SECONDS=12 OUT=demo; a dollar sign is typed once, in single quotes.'
	@echo 'make test, test-long, lab and app pass ARGS="..." on, for example: make test ARGS="-k flow -x"; WORKERS=0 tests in one process (--pdb)'

demo: $(STAMP) ## generate N different pieces for PROMPT into the folder OUT
	@$(BIN)/musekit generate --n "$$DEMO_N" --seed "$$DEMO_SEED" --seconds "$$DEMO_SECONDS" --out "$$DEMO_OUT" -- "$$DEMO_PROMPT"

test: lint ## lint and test; what needs a missing program is skipped and says how to get it
	$(BIN)/python -m pytest -q -m "not long" -n $(WORKERS) $(ARGS)

test-long: $(STAMP) ## the tests that take minutes
	$(BIN)/python -m pytest -q -m long $(ARGS)

lint: $(STAMP) ## ruff over code and notebooks
	$(BIN)/ruff check

# The setting lets uploads of any length through (musekit.explore.uploads.TORNADO).
lab: $(STAMP) ## open the latent lab in JupyterLab
	$(BIN)/jupyter lab --ServerApp.tornado_settings='{"websocket_max_message_size": 537919488}' $(ARGS) notebooks/05_latent_lab.ipynb

app: $(STAMP) ## serve the latent lab as a web page (Voila, on this machine only)
	$(BIN)/python scripts/app.py $(ARGS)

notebooks: $(STAMP) ## execute the notebooks in place and check them (NOTEBOOKS="..." picks some)
	$(BIN)/python scripts/run_notebooks.py $(NOTEBOOKS)

check-notebooks: $(STAMP) ## check the notebooks as they are, without running them
	$(BIN)/python scripts/run_notebooks.py --check $(NOTEBOOKS)

samples: $(STAMP) ## make the README's samples again (samples/*.mp3, results/samples.json): after other weights
	$(BIN)/python scripts/samples.py
	$(BIN)/python scripts/tables.py

# In this order: later ones read what earlier ones keep under MUSEKIT_HOME, and each goes on where it was stopped.
# bench comes last and wants the machine for itself. What needs a GPU is not here: slurm/bench.sh makes it.
results: $(STAMP) ## measure again all that a CPU can: hours; the same command goes on where it was stopped
	$(BIN)/musekit cache --corpus scores --kinds clips
	$(BIN)/musekit eval all
	$(BIN)/musekit eval few-step
	$(BIN)/musekit eval ablations
	$(BIN)/musekit eval gallery
	$(BIN)/python scripts/samples.py
	$(BIN)/musekit cache --preset paper --estimate
	$(BIN)/python -m pytest -q -m long -k curves
	$(BIN)/python -m pytest -q -m long -k twenty_kills
	set -e; for what in end-to-end stage1 stage2 piece batch sizes memory ddp lab; do $(BIN)/musekit bench $$what; done
	$(BIN)/python scripts/tables.py

poster: $(STAMP) ## draw the figures and the A0 poster (poster/poster.pdf, .png) from results/
	$(BIN)/python -m poster

.venv: $(STAMP) ## only make .venv and install (again when pyproject.toml or constraints.txt changed)

# A .venv that is already there is kept when it runs and is of the right version, whoever made it.
$(STAMP): pyproject.toml constraints.txt
	@set -eu; \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
	    found=; \
	    for p in $(PYTHONS); do \
	        if "$$p" -c '$(RIGHT_PYTHON)' 2>/dev/null; then found=$$p; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo 'error: no Python 3.11 or 3.12 among: $(PYTHONS). Install one, or name it: make $(or $(MAKECMDGOALS),.venv) PYTHON=/path/to/python3.11' >&2; exit 1; \
	    fi; \
	    echo "Making .venv with $$("$$found" --version)."; \
	    "$$found" -m venv --clear .venv || { \
	        echo 'error: this Python cannot make virtual environments (on Debian: apt install python3-venv).' >&2; exit 1; }; \
	elif ! $(BIN)/python -c '$(RIGHT_PYTHON)'; then \
	    echo "error: .venv holds $$($(BIN)/python --version), MUSE needs 3.11 or 3.12. Remove it (rm -r .venv) and run make again." >&2; exit 1; \
	fi; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null || { \
	    echo 'error: .venv has no pip. Remove it (rm -r .venv; on Debian also: apt install python3-venv) and run make again.' >&2; exit 1; }; \
	echo 'Installing musekit and the packages of constraints.txt into .venv (the first time: some minutes, 6 GB on Linux)...'; \
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]' -c constraints.txt; \
	touch $@; \
	echo 'Installed.'

constraints: $(STAMP) ## write constraints.txt anew from what .venv holds (after testing it)
	$(BIN)/python scripts/freeze_constraints.py

system-packages: ## Debian, as root or with sudo: install chromium and Slurm for the tests that need them
	@set -eu; \
	if ! command -v apt-get >/dev/null; then \
	    echo 'error: this is not Debian or Ubuntu (no apt-get). Install by your own means: $(SYSTEM_PACKAGES)' >&2; exit 1; \
	fi; \
	missing=; \
	for p in $(SYSTEM_PACKAGES); do \
	    dpkg-query -W -f '$${Status}' "$$p" 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	if [ -z "$$missing" ]; then echo 'Already installed: $(SYSTEM_PACKAGES)'; exit 0; fi; \
	sudo=; \
	if [ "$$(id -u)" != 0 ]; then \
	    command -v sudo >/dev/null || { echo "error: run as root, or install sudo: apt-get install$$missing" >&2; exit 1; }; \
	    sudo=sudo; echo 'Not root: using sudo, which may ask for your password.'; \
	fi; \
	echo "Installing Debian packages:$$missing"; \
	$$sudo apt-get update -qq; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $$missing

clean: ## remove caches and build leftovers (not .venv, not what you generated)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache test-artefacts
	find musekit scripts tests notebooks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} + 2>/dev/null || true
