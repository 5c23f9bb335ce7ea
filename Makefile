# Two commands do all the set-up:
#   make reproduce                 trains and reports the profile `laptop`
#   make reproduce PROFILE=smoke   the same in a few minutes, for a first look
#   make reproduce LAUNCHER=slurm  the same on a cluster: each run is a job of SLURM
#   make plan                      shows what would be done, and what each job asks for
#   make status                    shows how far every run is
#   make test                      runs the tests
#   make bench                     measures a step of each optimizer, in an environment of its own
#   make bench-analysis            measures the analysis of 500 runs
#   make reference                 keeps what a finished profile found in results/reference/
# The first two make the virtual environment .venv from requirements.lock first.

PROFILE ?= laptop
LAUNCHER ?= default
PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
IN_VENV := PATH="$(BIN):$$PATH"

.PHONY: reproduce plan status test test-here test-slurm bench bench-analysis reference lint lock clean
.DELETE_ON_ERROR:

reproduce: $(VENV)/installed
	$(IN_VENV) snakemake --profile profiles/$(LAUNCHER) --config profile=$(PROFILE)

plan: $(VENV)/installed
	@$(IN_VENV) snakemake --profile profiles/$(LAUNCHER) --config profile=$(PROFILE) --dry-run
ifneq ($(wildcard profiles/$(LAUNCHER)/cluster.yaml),)
	@$(IN_VENV) python -m experiments jobs --profile $(PROFILE) --cluster profiles/$(LAUNCHER)/cluster.yaml
endif

status: $(VENV)/installed
	@$(IN_VENV) python -m experiments status --profile $(PROFILE)

# Those that need a cluster mostly wait for it, so the others run beside them.
test: $(VENV)/installed
	@$(MAKE) --no-print-directory --jobs=2 --output-sync test-here test-slurm

test-here:
	$(IN_VENV) python -m pytest --ignore=tests/slurm

test-slurm:
	$(IN_VENV) python -m pytest tests/slurm -rs

bench: $(VENV)-bench/installed
	PATH="$(CURDIR)/$(VENV)-bench/bin:$$PATH" python -m experiments.bench

bench-analysis: $(VENV)/installed
	$(IN_VENV) python -m tests.measure_analysis

reference: FROM := results/$(PROFILE)
reference: TO := results/reference/$(PROFILE)
reference:
	rm -rf $(TO)
	mkdir -p $(TO)
	cp -r $(FROM)/claims.csv $(FROM)/claims.md $(FROM)/runs.csv $(FROM)/tables $(FROM)/figures $(TO)
	cp "$$(ls -t $(FROM)/plans/*.yaml | head -n 1)" $(TO)/settings.yaml

lint: $(VENV)/installed
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) snakefmt --check Snakefile
	$(IN_VENV) python tests/lint_snakefile.py

$(VENV)/installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "PYTHON is $(PYTHON), which is not on PATH: install Python 3.11 or name it, as in 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --requirement requirements.lock
	@# On all cores, which pip does not do. Some packages ship files for other Pythons: not an error.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

# Apart from the other, because transformers imports torchao wherever it is installed.
$(VENV)-bench/installed: requirements.lock requirements-bench.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/pip install --quiet --requirement requirements.lock --requirement requirements-bench.lock
	$(VENV)-bench/bin/pip install --quiet --no-deps --editable .
	@touch $@

# Resolves pyproject.toml anew, but for torch, and writes every version it chose. Build tags (+cpu)
# and what only a CUDA build brings along are left out, so that the pins install on any machine.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet torch==2.13.0 --editable '.[experiments,test]'
	{ echo '# Written by `make lock` from pyproject.toml; Python 3.11.'; \
	  $(VENV)-lock/bin/pip freeze --exclude-editable | sed 's/+.*//' \
	  | grep -v -e '^nvidia-' -e '^cuda-' -e '^triton' | sort -f; } > requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-bench .snakemake
