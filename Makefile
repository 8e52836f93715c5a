# A menu, not a program: each target is one line that calls the command line. `make` alone prints it.
PYTHON ?= python3
BIN := .venv/bin
PROFILE ?= paper
# What is not set is not passed on, and the command line's own defaults hold.
PLACES = $(if $(DATA),--data-root "$(DATA)") $(if $(WEIGHTS),--weights-dir "$(WEIGHTS)") $(if $(RESULTS),--results "$(RESULTS)")
SUITE = $(if $(LAUNCHER),--launcher "$(LAUNCHER)") $(if $(WORKERS),--workers "$(WORKERS)")
FLAGS = --profile $(PROFILE) $(PLACES) $(SUITE) $(if $(CATEGORIES),--categories "$(CATEGORIES)") $(if $(SEEDS),--seeds "$(SEEDS)")
# What is shown, without PROFILE, is the papers' own and every other on real data that has runs.
SHOWN = $(if $(filter file,$(origin PROFILE)),,--profile $(PROFILE))
TABLES := $(wildcard experiments/*/table*.yaml experiments/*/fig*.yaml)
READY := .venv/installed

.DEFAULT_GOAL := menu
.PHONY: menu help setup smoke test test-slow test-real test-browser lint format tables report claims benchmark docs
.PHONY: ablation-backbone ablation-fmm ablation-scsatt ablation-multiscale

menu help:
	@echo "make TARGET [PROFILE=paper|lite|smoke] [DATA=folder] [WEIGHTS=folder] [RESULTS=folder] [CATEGORIES=bottle,pill] [SEEDS=0,1,2] [WORKERS=2] [LAUNCHER=local|ray|slurm]"
	@sed -n 's/^\([a-z][a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "  table1 ...        fmm_scsatt's tables by number; other papers' as ast-mfr-table1. There are:"
	@echo "  ablation-...      backbone, fmm, scsatt, multiscale: fmm_scsatt's tables 4 to 7"
	@for table in $(TABLES:experiments/%.yaml=%); do echo "                    $$table"; done

setup: $(READY)	## make the environment (.venv, several GB with CUDA); every target does it first

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

smoke: $(READY)	## every table at smoke scale on generated images: no download, about a quarter of an hour
	$(BIN)/anomaly-bench tables --train --profile smoke $(PLACES) $(SUITE)

test: $(READY)	## the tests, on all cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(READY)	## tests that take minutes: kills, full disks, Ray, Slurm, several devices, worked examples
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

test-real: $(READY)	## tests that train on real images; needs ANOMALY_BENCH_DATA and ANOMALY_BENCH_WEIGHTS
	OMP_NUM_THREADS=1 $(BIN)/pytest -m real -n auto

test-browser: $(READY)	## tests of the report in a real browser; needs Chromium
	$(BIN)/pytest -m browser

lint: $(READY)	## check style and types, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)	## rewrite to the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

table%: $(READY)
	$(BIN)/anomaly-bench table fmm_scsatt/$@ $(FLAGS)

# Its ablations by what they ask.
ablation-backbone: table4
ablation-fmm: table5
ablation-scsatt: table6
ablation-multiscale: table7

# <paper>-tableN and <paper>-figN, the paper's underscores written as hyphens.
$(foreach table,$(TABLES),$(subst _,-,$(subst /,-,$(table:experiments/%.yaml=%)))): $(READY)
	$(BIN)/anomaly-bench table $(subst -,_,$(subst -fig,/fig,$(subst -table,/table,$@))) $(FLAGS)

tables: $(READY)	## build every table from the records there are; trains nothing
	$(BIN)/anomaly-bench tables $(SHOWN) $(PLACES)

report: $(READY)	## one HTML page with all tables and figures: results/report/index.html
	$(BIN)/anomaly-bench report $(SHOWN) $(PLACES)

claims: $(READY)	## what every variant in results/runs gains over RD trained alike: results/claims.md, .csv
	$(BIN)/python experiments/claims.py $(if $(RESULTS),--results "$(RESULTS)")

docs: $(READY)	## the API's pages from the docstrings: docs/api/index.html
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/pdoc --docformat google --template-directory docs/pdoc --output-directory docs/api anomaly_bench

# An interpreter that has anomalib and adeval, where they are not beside this package: PEERS=folder/bin/python
PEERS ?= $(BIN)/python
PERFORMANCE := experiments/performance
SPEED := results/performance
TRAIN = $(BIN)/python $(PERFORMANCE)/train.py $(BOTTLE) --anomalib-python $(PEERS) --out $(SPEED)
# Processes of each contender, of which medians are taken; of DLKD and WideResNet50 always one. REPEATS=1 takes two thirds
# of the time.
REPEATS ?= 3
FEW = --repeats 1 $(if $(shell command -v nvidia-smi),,--train-images 32)
BOTTLE = $(if $(DATA),--data-root "$(DATA)" --dataset mvtec --category bottle)

benchmark: $(READY)	## speed of everything, one to three hours on two cores (on bottle where DATA is given)
	$(BIN)/python $(PERFORMANCE)/metrics_panel.py --out $(SPEED)
	PYTHONPATH=. $(PEERS) $(PERFORMANCE)/metrics_peers.py --out $(SPEED)
	$(BIN)/python $(PERFORMANCE)/selective_scan.py --out $(SPEED)
	$(BIN)/python $(PERFORMANCE)/loading.py $(BOTTLE) --out $(SPEED)
	$(BIN)/python $(PERFORMANCE)/techniques.py --out $(SPEED) $(if $(shell command -v g++),--compile)
	$(BIN)/python $(PERFORMANCE)/latency.py --out $(SPEED)
	$(BIN)/python $(PERFORMANCE)/workers.py --out $(SPEED)
	$(BIN)/python $(PERFORMANCE)/scaling.py --out $(SPEED)
	$(BIN)/python $(PERFORMANCE)/table_cost.py --out $(SPEED)
	$(TRAIN) --method rd --repeats $(REPEATS)
	for method in fmm_scsatt variance_rd ast_mfr; do $(TRAIN) --method $$method --repeats $(REPEATS) || exit 1; done
	$(TRAIN) --method dlkd $(FEW)
	$(TRAIN) --method rd --teacher wide_resnet50_2.random $(FEW)
