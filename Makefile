# Three commands: `make demo`, `make test` and `make docs`. They set up .venv first and reuse it afterwards.
VENV := .venv
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
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

$(READY): pyproject.toml constraints.txt
	@test -n "$(CHOSEN)" || { echo "poisonbench runs on Python 3.11 to 3.13; none was found. Name one: make demo PYTHON=/path/to/python3.12"; exit 2; }
	$(CHOSEN) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)

$(DOCS_READY): $(READY)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $(DOCS_READY)
