# Four commands: `make setup`, `make demo`, `make test` and `make docs`. They set up .venv first and reuse it afterwards.
# TORCH=cpu installs a CPU build of torch, without the CUDA libraries: `make demo TORCH=cpu INDEX=URL`. INDEX is the package index of
# PyTorch's CPU builds, which pytorch.org names under "Get Started"; leave it out where pip's own settings know it. .venv keeps its kind.
VENV := .venv
TORCH ?= $(if $(wildcard $(VENV)/.ready-cpu),cpu,cuda)
$(if $(filter cpu cuda,$(TORCH)),,$(error TORCH=$(TORCH): choose cpu or cuda))
ifeq ($(TORCH),cpu)
LOCK := constraints-cpu.txt
READY := $(VENV)/.ready-cpu
OTHER := $(VENV)/.ready
else
LOCK := constraints.txt
READY := $(VENV)/.ready
OTHER := $(VENV)/.ready-cpu
endif
DOCS_READY := $(VENV)/.docs
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
HINT = test "$(TORCH)" != cpu || echo "If pip found no torch+cpu, give the package index of PyTorch's CPU builds: make setup TORCH=cpu INDEX=URL"
CHOSEN = $(shell for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do if $$python -c "$(FITS)" 2>/dev/null; then echo $$python; break; fi; done)

.PHONY: demo test docs setup
demo: $(READY)
	$(VENV)/bin/python -m poisonbench attack=backdoor defense=spectral defense.sanitize.margin=2.5

test: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal

docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet --strict
	@echo "documentation: open site/index.html in a browser; it needs no network"

setup: $(READY)

$(READY): pyproject.toml $(LOCK)
	@test -n "$(CHOSEN)" || { echo "poisonbench runs on Python 3.11 to 3.13; none was found. Name one: make demo PYTHON=/path/to/python3.12"; exit 2; }
	$(CHOSEN) -m venv $(if $(wildcard $(OTHER)),--clear) $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c $(LOCK) $(if $(INDEX),--extra-index-url $(INDEX)) -e ".[dev]" || { $(HINT); exit 2; }
	touch $(READY)

$(DOCS_READY): $(READY)
	$(VENV)/bin/python -m pip install --quiet -c $(LOCK) -e ".[docs]"
	touch $(DOCS_READY)
