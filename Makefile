# Two commands do all the set-up:
#   make reproduce                 trains and reports the profile `laptop`
#   make reproduce PROFILE=smoke   the same in a few minutes, for a first look
#   make test                      runs the tests
# Both make the virtual environment .venv from requirements.lock first.

PROFILE ?= laptop
PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin

.PHONY: reproduce test lint lock clean
.DELETE_ON_ERROR:

reproduce: $(VENV)/installed
	PATH="$(BIN):$$PATH" snakemake --config profile=$(PROFILE)

test: $(VENV)/installed
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile
	PATH="$(BIN):$$PATH" python tests/lint_snakefile.py

$(VENV)/installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "PYTHON is $(PYTHON), which is not on PATH: install Python 3.11 or name it, as in 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --requirement requirements.lock
	@# On all cores, which pip does not do. Some packages ship files for other Pythons: not an error.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

# Resolves pyproject.toml anew and writes every version it chose. Local build tags
# (+cpu) are cut off, so that the pins install on any machine.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --editable '.[experiments,test]'
	{ echo '# Written by `make lock` from pyproject.toml; Python 3.11.'; \
	  $(VENV)-lock/bin/pip freeze --exclude-editable | sed 's/+.*//' | sort -f; } > requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) .snakemake
