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
TARGET ?= local
REASON ?=
INPUT ?=
OUTPUT ?=
ADC ?=
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
STATE ?=

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check
INSTALLED := $(VENV)/.installed
PYTEST := $(PYTHON) -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 20
DEV_INSTALLED := $(VENV)/.installed-dev

SBOM := $(PYTHON) -W ignore -m cyclonedx_py requirements --output-reproducible --pyproject pyproject.toml --mc-type application

IMAGE_TAG := $(PYTHON) -W ignore -c 'from pipelines.cluster.kubernetes import sources_tag; print(sources_tag())'

export PYTHONPATH := $(CURDIR)
export PYTHONUTF8 := 1
$(if $(PYTHONHOME),$(info not used here: PYTHONHOME (docs/environment.md says why)))
unexport PYTHONHOME
export DATA PRESET PRESETS SEEDS SET TARGET REASON INPUT OUTPUT ADC PROBABILITY OVERWRITE SERVE_PORT MODEL MODEL_DIGEST REGISTRY RUN STEP FOLLOW CRON REMOVE FORCE RAW ONLY SECONDS_EACH SEED BASE_PYTHON STATE
.DEFAULT_GOAL := help
.PHONY: help pipeline-run experiments pipeline-logs pipeline-schedule pipeline-schedules test test-all up mlflow down status check-data demo-data predict serve promote rollback champion lineage compile images images-push base-digests kind-up kind-down test-kind test-containers relations torture lint parameters audit lock sbom bench evidence install

pipeline-run: $(INSTALLED) ## run all: [DATA=folder|s3://bucket/prefix] [PRESET=demo|baseline|n4|demo+n4|...] [SET="epochs=5"] [TARGET=local|kind|cluster]
	@exec $(PYTHON) -m pipelines run --data="$$DATA" --preset="$$PRESET" --set="$$SET" --target="$$TARGET"

experiments: $(INSTALLED) ## compare improvements: [PRESETS="n4 loss"] [SEEDS=3] [PRESET=demo: what they lie over] [what pipeline-run takes]
	@exec $(PYTHON) -m pipelines experiments --presets="$$PRESETS" --seeds="$$SEEDS" --data="$$DATA" --preset="$$PRESET" --set="$$SET" --target="$$TARGET"

pipeline-logs: $(INSTALLED) ## what the steps of the last run said: [STEP=train] [RUN=name] [FOLLOW=1] [RAW=1]
	@exec $(PYTHON) -m pipelines logs --run="$$RUN" --step="$$STEP" --follow="$$FOLLOW" --raw="$$RAW" --target="$$TARGET"

pipeline-schedule: $(INSTALLED) ## run by a cluster's clock: CRON="0 2 * * *" TARGET=kind|cluster [what pipeline-run takes]
	@exec $(PYTHON) -m pipelines schedule --cron="$$CRON" --data="$$DATA" --preset="$$PRESET" --set="$$SET" --target="$$TARGET"

pipeline-schedules: $(INSTALLED) ## list a cluster's schedules: TARGET=kind|cluster [REMOVE=id or name] [FORCE=1]
	@exec $(PYTHON) -m pipelines schedules --target="$$TARGET" --remove="$$REMOVE" --force="$$FORCE"

test: $(DEV_INSTALLED) ## the tests of every part, a quarter of an hour on two cores; what is skipped says why
	@$(PYTEST)

test-all: $(DEV_INSTALLED) ## all tests, the slow ones too, but those of test-kind, torture and relations
	@$(PYTEST) -m "not cluster and not torture and not relations"

check-data: $(INSTALLED) ## what would be ingested of DATA=folder|s3://..., and what refused and why [SET="b_value=800"] [TARGET=kind|cluster]
	@exec $(PYTHON) -m pipelines check-data --data="$$DATA" --preset="$$PRESET" --set="$$SET" --target="$$TARGET"

predict: $(INSTALLED) ## segment INPUT=scan.nii.gz OUTPUT=mask.nii.gz, or folders [ADC=adc.nii.gz] [MODEL=models:/...] [MODEL_DIGEST=...] [PROBABILITY=1] [OVERWRITE=1] [SET="modality_check=false"] [TARGET=kind|cluster]
	@exec $(PYTHON) -m pipelines predict --input="$$INPUT" --output="$$OUTPUT" --adc="$$ADC" --model="$$MODEL" --digest="$$MODEL_DIGEST" --probability="$$PROBABILITY" --overwrite="$$OVERWRITE" --set="$$SET" --target="$$TARGET"

serve: $(INSTALLED) ## the champion over HTTP, on 127.0.0.1 [MODEL=models:/...] [MODEL_DIGEST=...] [SERVE_PORT=5001] [TARGET=kind|cluster]
	@exec $(PYTHON) -m pipelines serve --model="$$MODEL" --digest="$$MODEL_DIGEST" --port="$$SERVE_PORT" --target="$$TARGET"

champion: $(INSTALLED) ## which version is champion and why, and whether the ledger says the same [TARGET=kind|cluster]
	@exec $(PYTHON) -m pipelines champion --target="$$TARGET"

promote: $(INSTALLED) ## make a version champion, policy or not: MODEL=models:/dwi-attention-unet/3 REASON="..." [TARGET=kind|cluster]
	@exec $(PYTHON) -m pipelines promote --model="$$MODEL" --reason="$$REASON" --target="$$TARGET"

rollback: $(INSTALLED) ## go back to the champion before [REASON="..."] [TARGET=kind|cluster]
	@exec $(PYTHON) -m pipelines rollback --reason="$$REASON" --target="$$TARGET"

lineage: $(INSTALLED) ## what a version was made of, to every scan's sha256, hashed again: [MODEL=models:/...] [TARGET=kind|cluster]
	@exec $(PYTHON) -m pipelines lineage --model="$$MODEL" --target="$$TARGET"

demo-data: $(INSTALLED) ## make the synthetic demo scans in .local/demo-scans
	@exec $(PYTHON) -m pipelines demo-data --target="$$TARGET"

up: $(INSTALLED) ## start the embedded S3 and MLflow servers [S3_PORT=9000] [MLFLOW_PORT=5000]
	@exec $(PYTHON) -m pipelines up --target="$$TARGET"

mlflow: $(INSTALLED) ## show a link that logs a browser in to MLflow: [TARGET=kind|cluster]
	@exec $(PYTHON) -m pipelines mlflow --target="$$TARGET"

down: $(INSTALLED) ## stop them
	@exec $(PYTHON) -m pipelines down --target="$$TARGET"

status: $(INSTALLED) ## say whether they run; of a cluster its runs, schedules and champion too: [TARGET=kind|cluster]
	@exec $(PYTHON) -m pipelines status --target="$$TARGET"

compile: $(INSTALLED) ## write the pipeline for a cluster to build/pipeline.yaml [REGISTRY=...] [GPUS=0] [NODES=1] [NODE_SELECTOR=label=value] [TOLERATION=taint]
	@exec $(PYTHON) -m pipelines compile --target="$$TARGET"

images: $(INSTALLED) ## build the container images with docker [REGISTRY=...]
	@exec images/build "$$($(IMAGE_TAG))" "$$REGISTRY"

images-push: $(INSTALLED) ## push them: REGISTRY=registry.example.org/team
	@exec images/build --push "$$($(IMAGE_TAG))" "$$REGISTRY"

base-digests: ## write the digests of the base images into images/*.Dockerfile (asks their registry, through docker)
	@exec images/pin-bases

kind-up: $(INSTALLED) ## make a local Kubernetes cluster with Kubeflow Pipelines and MLflow (wants docker, kind, kubectl, git)
	@exec $(PYTHON) -m pipelines kind-up --target="$$TARGET"

kind-down: $(INSTALLED) ## remove it, with all that is stored in it
	@exec $(PYTHON) -m pipelines kind-down --target="$$TARGET"

test-kind: $(DEV_INSTALLED) ## the tests that need a cluster, kind's or another [KUBE_CONTEXT=...]: undisturbed and disturbed runs (hours)
	@$(PYTHON) -m pytest -m cluster tests/cluster

test-containers: images ## run all with each step in its container: [DATA=...] [PRESET=...] [SET=...]
	@exec $(PYTHON) -m pipelines run --data="$$DATA" --preset="$$PRESET" --set="$$SET" --target=containers

torture: $(DEV_INSTALLED) ## kill, break and deceive it for a while, and count: [ONLY="kills or storage"] [SECONDS_EACH=300] [SEED=1] [TARGET=kind]
	@case "$$TARGET" in local) tests=tests/torture ;; *) tests=tests/torture/test_cluster.py ;; esac; \
	$(PYTHON) -m pytest -m torture -s -k "$$ONLY" $$tests

relations: $(DEV_INSTALLED) ## the relations that must hold, on the demo's champion and real scans (minutes) [RELATIONS_MODEL=folder of weights]
	@$(PYTHON) -m pytest -m relations tests/relations

lint: $(DEV_INSTALLED) ## ruff
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .

parameters: $(DEV_INSTALLED) ## develop: write the steps' parameters, their table in docs and the tests' pipeline from Settings
	@ACCEPT=1 $(PYTHON) -m pytest -n 0 -q tests/unit/components/test_component_parameters.py
	@ACCEPT=1 $(PYTHON) -m pytest -n 0 -q $(wildcard tests/unit/test_docs.py) tests/unit/pipelines/cluster/test_kubernetes.py -k "table_of_parameters or golden"

audit: $(DEV_INSTALLED) ## what is known against the pinned packages (asks the package index)
	@$(PYTHON) .ci/audit.py

lock: $(DEV_INSTALLED) ## write the hashes of all pins into the lock files (asks the package index)
	@.ci/lock

sbom: $(DEV_INSTALLED) ## the bill of materials (CycloneDX): build/sbom.json, build/sbom-mlflow.json
	@mkdir -p build
	@cat requirements.txt images/requirements-torch.txt | $(SBOM) --output-file build/sbom.json -
	@$(SBOM) --output-file build/sbom-mlflow.json images/requirements-mlflow.txt
	@echo "build/sbom.json (laptops and the images components and trainer), build/sbom-mlflow.json (the image mlflow)"

bench: $(DEV_INSTALLED) ## ratios of speed and memory against plain references (minutes) [ONLY="worth seconds=300": against MONAI]
	@set -f; $(PYTHON) -m tests.benchmarks $$ONLY

evidence: $(DEV_INSTALLED) ## make the tables of docs/evidence.md (minutes) [ONLY="statistics ..."]
	@set -f; $(PYTHON) -m tests.evidence $$ONLY

install: $(INSTALLED) ## install the pinned dependencies into .venv [BASE_PYTHON=python3.13]

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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
