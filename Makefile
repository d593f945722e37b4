# The one index of what a person can do here: make help.

ifeq ($(origin PSEUDONYM_KEY),command line)
$(error PSEUDONYM_KEY on the command line is seen by every login of this machine in the list of processes. Make another key, and export it: export PSEUDONYM_KEY=...)
endif

# make expands a `$` in a variable that was given on its command line. What a person types is theirs: keep each as typed.
$(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),\
    $(eval override $(name) := $$(value $(name)))$(eval export $(name))))

DATA ?=
PRESET ?= demo
PRESETS ?= baseline n4 deep-supervision cca loss
SEEDS ?= 3
SET ?=
START ?=
TARGET ?= local
REASON ?=
INPUT ?=
OUTPUT ?=
ADC ?=
SERIES ?=
PROBABILITY ?=
OVERWRITE ?=
SERVE_PORT ?= 5001
REGISTRY ?=
RUN ?=
STEP ?=
FOLLOW ?=
CRON ?=
REMOVE ?=
FORCE ?=
RAW ?=
MODEL ?= models:/dwi-attention-unet@champion
MODEL_DIGEST ?=
ONLY ?=
SECONDS_EACH ?= 300
SEED ?= 1
BASE_PYTHON ?=
FOLDS ?=
STATE ?=

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check
INSTALLED := $(VENV)/.installed
PYTEST := $(PYTHON) -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 20
DEV_INSTALLED := $(VENV)/.installed-dev

SBOM := $(PYTHON) -W ignore -m cyclonedx_py requirements --output-reproducible --pyproject pyproject.toml --mc-type application

IMAGE_TAG := $(PYTHON) -W ignore -c 'from pipelines.image_tags import sources_tag; print(sources_tag())'

export PYTHONPATH := $(CURDIR)
export PYTHONUTF8 := 1
$(if $(PYTHONHOME),$(info not used here: PYTHONHOME (docs/environment.md says why)))
unexport PYTHONHOME
export DATA PRESET PRESETS SEEDS SET START TARGET REASON INPUT OUTPUT ADC SERIES PROBABILITY OVERWRITE SERVE_PORT MODEL MODEL_DIGEST REGISTRY RUN STEP FOLLOW CRON REMOVE FORCE RAW ONLY SECONDS_EACH SEED BASE_PYTHON FOLDS STATE
.DEFAULT_GOAL := help
.PHONY: help pipeline-run experiments pipeline-logs pipeline-schedule pipeline-schedules test test-all up mlflow down status check-data demo-data predict serve package promote rollback champion lineage compile images images-push base-digests kind-up kind-down test-kind test-containers relations torture lint typecheck parameters audit lock sbom bench evidence install

pipeline-run: $(INSTALLED) ## use: run all [DATA=folder] [PRESET=best] [SET="..."] [FOLDS=5] [TARGET=kind]
	@exec $(PYTHON) -m pipelines run --data="$$DATA" --series="$$SERIES" --preset="$$PRESET" --set="$$SET" --start="$$START" --target="$$TARGET"

experiments: $(INSTALLED) ## models: compare presets over seeds [PRESETS="n4 loss"] [SEEDS=3]
	@exec $(PYTHON) -m pipelines experiments --presets="$$PRESETS" --seeds="$$SEEDS" --data="$$DATA" --series="$$SERIES" --preset="$$PRESET" --set="$$SET" --start="$$START" --target="$$TARGET"

pipeline-logs: $(INSTALLED) ## use: show the logs of the last run's steps [STEP=train] [FOLLOW=1]
	@exec $(PYTHON) -m pipelines logs --run="$$RUN" --step="$$STEP" --follow="$$FOLLOW" --raw="$$RAW" --target="$$TARGET"

pipeline-schedule: $(INSTALLED) ## cluster: run by the clock: CRON="0 2 * * *" TARGET=kind|cluster
	@exec $(PYTHON) -m pipelines schedule --cron="$$CRON" --data="$$DATA" --series="$$SERIES" --preset="$$PRESET" --set="$$SET" --start="$$START" --target="$$TARGET"

pipeline-schedules: $(INSTALLED) ## cluster: list the schedules of TARGET=kind|cluster [REMOVE=name]
	@exec $(PYTHON) -m pipelines schedules --target="$$TARGET" --remove="$$REMOVE" --force="$$FORCE"

test: $(DEV_INSTALLED) ## develop: the tests of every part, minutes on two cores; what is skipped says why
	@$(PYTEST)

test-all: test ## develop: make test, then the slow tests; not test-kind, torture, relations
	@$(PYTEST) -m "slow and not cluster and not torture and not relations"

check-data: $(INSTALLED) ## data: show what would be ingested of DATA=folder|s3://..., and what refused
	@exec $(PYTHON) -m pipelines check-data --data="$$DATA" --series="$$SERIES" --preset="$$PRESET" --set="$$SET" --target="$$TARGET"

predict: $(INSTALLED) ## use: segment INPUT=scan.nii.gz OUTPUT=mask.nii.gz, or folders
	@exec $(PYTHON) -m pipelines predict --input="$$INPUT" --output="$$OUTPUT" --adc="$$ADC" --series="$$SERIES" --model="$$MODEL" --digest="$$MODEL_DIGEST" --probability="$$PROBABILITY" --overwrite="$$OVERWRITE" --set="$$SET" --target="$$TARGET"

serve: $(INSTALLED) ## use: serve the champion over HTTP on 127.0.0.1 [SERVE_PORT=5001]
	@exec $(PYTHON) -m pipelines serve --model="$$MODEL" --digest="$$MODEL_DIGEST" --port="$$SERVE_PORT" --target="$$TARGET"

package: $(INSTALLED) ## use: make an image that segments by itself, a BIDS App [MODEL=models:/.../3]
	@exec $(PYTHON) -m pipelines package --model="$$MODEL" --digest="$$MODEL_DIGEST" --registry="$$REGISTRY" --target="$$TARGET"

champion: $(INSTALLED) ## models: say which version is champion and why, and check the ledger
	@exec $(PYTHON) -m pipelines champion --target="$$TARGET"

promote: $(INSTALLED) ## models: make a version champion: MODEL=models:/... REASON="..."
	@exec $(PYTHON) -m pipelines promote --model="$$MODEL" --reason="$$REASON" --target="$$TARGET"

rollback: $(INSTALLED) ## models: go back to the champion before [REASON="..."]
	@exec $(PYTHON) -m pipelines rollback --reason="$$REASON" --target="$$TARGET"

lineage: $(INSTALLED) ## models: show what a version was made of, hashed again [MODEL=...]
	@exec $(PYTHON) -m pipelines lineage --model="$$MODEL" --target="$$TARGET"

demo-data: $(INSTALLED) ## data: make the synthetic demo scans in .local/demo-scans
	@exec $(PYTHON) -m pipelines demo-data --target="$$TARGET"

up: $(INSTALLED) ## use: start the embedded S3 and MLflow servers [S3_PORT=9000]
	@exec $(PYTHON) -m pipelines up --target="$$TARGET"

mlflow: $(INSTALLED) ## use: show a link that logs a browser in to MLflow
	@exec $(PYTHON) -m pipelines mlflow --target="$$TARGET"

down: $(INSTALLED) ## use: stop both servers
	@exec $(PYTHON) -m pipelines down --target="$$TARGET"

status: $(INSTALLED) ## use: say whether the servers run; of a cluster its runs and schedules too
	@exec $(PYTHON) -m pipelines status --target="$$TARGET"

compile: $(INSTALLED) ## cluster: write the pipeline for a cluster to build/pipeline.yaml
	@exec $(PYTHON) -m pipelines compile --target="$$TARGET"

images: $(INSTALLED) ## cluster: build the container images with docker [REGISTRY=...]
	@exec images/build "$$($(IMAGE_TAG))" "$$REGISTRY"

images-push: $(INSTALLED) ## cluster: push the images: REGISTRY=registry.example.org/team
	@exec images/build --push "$$($(IMAGE_TAG))" "$$REGISTRY"

base-digests: ## cluster: pin the base images of images/*.Dockerfile by digest
	@exec images/pin-bases

kind-up: $(INSTALLED) ## cluster: make a local cluster with Kubeflow Pipelines and MLflow
	@exec $(PYTHON) -m pipelines kind-up --target="$$TARGET"

kind-down: $(INSTALLED) ## cluster: remove the kind cluster, with all that is stored in it
	@exec $(PYTHON) -m pipelines kind-down --target="$$TARGET"

test-kind: $(DEV_INSTALLED) ## develop: the tests that need a cluster [KUBE_CONTEXT=...] (hours)
	@$(PYTHON) -m pytest -m cluster tests/cluster

test-containers: images ## develop: run the pipeline with each step in its container
	@exec $(PYTHON) -m tests.support.containers run --data="$$DATA" --preset="$$PRESET" --set="$$SET"

torture: $(DEV_INSTALLED) ## develop: long tests with kills, faults and attackers (an hour) [ONLY="kills"]
	@case "$$TARGET" in local) tests=tests/torture ;; *) tests=tests/torture/test_cluster.py ;; esac; \
	$(PYTHON) -m pytest -m torture -s -k "$$ONLY" $$tests

relations: $(DEV_INSTALLED) ## develop: check relations on the champion and real scans (minutes)
	@$(PYTHON) -m pytest -m relations tests/relations

lint: $(DEV_INSTALLED) ## develop: check the style (ruff) and which room imports which
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
	@$(PYTHON) -c 'from importlinter.cli import lint_imports_command as check; check()' --no-cache --no-logo

typecheck: $(DEV_INSTALLED) ## develop: check the types (mypy)
	@$(PYTHON) -m mypy

parameters: $(DEV_INSTALLED) ## develop: write the parameters of steps, docs and tests from Settings
	@ACCEPT=1 $(PYTHON) -m pytest -n 0 -q tests/unit/components/test_component_parameters.py
	@ACCEPT=1 $(PYTHON) -m pytest -n 0 -q tests/unit/test_docs.py tests/unit/pipelines/cluster/test_kubernetes.py -k "table_of_parameters or golden"

audit: $(DEV_INSTALLED) ## develop: list known faults of the pins (asks the package index)
	@$(PYTHON) .ci/audit.py

lock: $(DEV_INSTALLED) ## develop: write the hashes of all pins (asks the package index)
	@.ci/lock

sbom: $(DEV_INSTALLED) ## develop: write the bill of materials (CycloneDX) into build/
	@mkdir -p build
	@cat requirements.txt images/requirements-torch.txt | $(SBOM) --output-file build/sbom.json -
	@$(SBOM) --output-file build/sbom-mlflow.json images/requirements-mlflow.txt
	@echo "build/sbom.json (laptops and the images components and trainer), build/sbom-mlflow.json (the image mlflow)"

bench: $(DEV_INSTALLED) ## develop: measure speed and memory against references [ONLY=worth]
	@set -f; $(PYTHON) -m tests.benchmarks $$ONLY

evidence: $(DEV_INSTALLED) ## develop: make the tables of docs/evidence.md [ONLY=statistics]
	@set -f; $(PYTHON) -m tests.evidence $$ONLY

install: $(INSTALLED) ## use: install the pinned dependencies into .venv [BASE_PYTHON=...]

help: ## use: this list; docs/commands.md has every option
	@awk 'BEGIN { groups = split("use data models cluster develop", order, " ") } \
	  /^[a-z-]+:.* ## / { name = $$1; sub(/:.*/, "", name); sub(/.* ## /, ""); group = $$0; sub(/:.*/, "", group); \
	    sub(/^[a-z]+: /, ""); lines[group] = lines[group] sprintf("  make %-18s %s\n", name, $$0) } \
	  END { for (i = 1; i <= groups; i++) printf "%s%s\n%s", (i > 1 ? "\n" : ""), order[i], lines[order[i]] }' \
	  $(MAKEFILE_LIST)

# torch by itself: which of its builds fits differs from machine to machine, so requirements.lock has no hash of it.
$(INSTALLED): requirements.txt requirements.lock $(PYTHON)
	@pipelines/local/make-venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) (once, some minutes)"
	@$(PIP) --require-hashes --no-deps -r requirements.lock
	@$(PIP) -c requirements.txt "$$(grep '^torch==' requirements.txt)"
	@touch $@

# Missing, or a link to a Python that is gone: make-venv makes it.
$(PYTHON): ;

$(DEV_INSTALLED): requirements-dev.txt requirements-dev.lock $(INSTALLED)
	@$(PIP) --require-hashes --no-deps -r requirements-dev.lock
	@touch $@
