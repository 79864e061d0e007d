# make            lists the targets
# make demo       needs nothing but a Python >= 3.11: the first call of any target builds .venv
#
# Settings: PYTHON=/path/to/python (when there is no .venv yet), OUT=folder (of the demo), WORKERS=n (test processes),
#           ARGS='...' (handed on to nelbo demo, pytest or tools/mutants.py)

OUT     = demo/
WORKERS = 2
ARGS    =
PYTHON  ?=
export PYTHON

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# Other people's packages that parity tests run beside ours. They ask for torchvision, which has no CPU build here and
# which the parts under test do not need, so that they come without what they ask for.
PEERS := denoising-diffusion-pytorch k-diffusion

# One BLAS thread in each test process: with more, WORKERS processes fight for the same cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-slow mutants lint format docs notebooks bench package katex clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

venv: $(STAMP) ## build .venv with the pinned dependencies (done by every target that needs it)

# Brought up to date whenever what it is made of changes; the stamp is written last, so a broken install is tried again.
# A .venv that works is kept, whatever PYTHON says: remove it to change the interpreter.
$(STAMP): pyproject.toml constraints.txt
	@set -e; names="python3 python3.13 python3.12 python3.11 python"; chosen=; tried=; \
	recent() { "$$1" -c "import sys, $$2; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1; }; \
	consider() { \
	    tried="$$tried; $$1 is $$("$$1" -V 2>/dev/null || echo 'nothing that runs')"; \
	    recent "$$1" "venv, ensurepip" && chosen=$$1; \
	}; \
	if ! recent $(BIN)/python pip; then \
	    if [ -n "$$PYTHON" ]; then consider "$$PYTHON" || true; else for name in $$names; do consider $$name && break; done; fi; \
	    if [ -z "$$chosen" ]; then \
	        echo "error: nelbo needs Python >= 3.11 with the venv module$$tried" >&2; \
	        echo "hint: make PYTHON=/path/to/python3.11 (on Debian the module is the package python3-venv)" >&2; \
	        exit 2; \
	    fi; \
	    "$$chosen" -m venv --clear $(VENV); \
	fi; \
	echo "installing nelbo and what it needs into $(VENV) ($$($(BIN)/python -V)): some minutes the first time"; \
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps $(PEERS); \
	touch $(STAMP)

demo: $(STAMP) ## train, bound, sample and report on real digits; the last line is the folder with the result
	@$(BIN)/python -m nelbo demo --out "$(OUT)" $(ARGS)

test: $(STAMP) ## the quick tests
	$(PYTEST) -m 'not slow' $(ARGS)

test-slow: $(STAMP) ## the slow tests
	$(PYTEST) -m slow $(ARGS) || { rc=$$?; [ $$rc -eq 5 ] && echo "no slow tests: nothing to run" || exit $$rc; }

mutants: $(STAMP) ## break formulas at random places and print what share the quick tests notice
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutants.py $(ARGS)

lint: $(STAMP) ## style, format, types, floors
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## rewrite the code in the house style
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: $(STAMP) ## build the documentation, with the catalogue of equations, into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python -m nelbo equations build --out docs/_build/html/equations
	@echo "docs/_build/html/index.html"

notebooks: $(STAMP) ## write the pages with cells as notebooks, after a change of one (examples/notebooks)
	$(BIN)/python tools/notebooks.py

bench: ## list the benchmarks
	@set -- benchmarks/*.py; [ -e "$$1" ] || { echo "no benchmarks yet: they live in benchmarks/, one script each"; exit 0; }; \
	for script; do printf '  $(BIN)/python %-32s %s\n' "$$script" "$$(sed -n '1s/^"""\(.*[^"]\)"*$$/\1/p' "$$script")"; done

package: $(STAMP) ## build sdist and wheel into dist/, and try the wheel with each extra in an empty environment
	$(BIN)/python tools/package.py $(ARGS)

katex: $(STAMP) ## set the formulas of the equation catalogue again, after a change of its LaTeX (maintainers; needs node)
	cd tools/katex && npm ci --silent
	$(BIN)/python tools/katex/render.py

clean: ## remove build products, caches and the demo's folder (.venv stays)
	rm -rf build dist demo docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
