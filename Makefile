# Every command makes the virtual environment it needs:
#   make reproduce                 trains and reports the profile `laptop`
#   make reproduce PROFILE=smoke   the same in a few minutes, for a first look
#   make reproduce LAUNCHER=slurm  the same on a cluster: each run is a job of SLURM
#   make plan                      shows what would be done, and what each job asks for
#   make status                    shows how far every run is
#   make test                      runs the tests
#   make bench                     measures a step of each optimizer, in an environment of its own
#   make bench-analysis            measures the analysis of 500 runs
#   make reference                 keeps what a finished profile found in results/reference/
# PYTHON=… names the Python to make it with; make_venv.sh says which are accepted.

PROFILE ?= laptop
LAUNCHER ?= default
# Recipes read these from their environment, as "$$PROFILE": in the text of a command a blank or a
# quote in them would change it. `value` leaves a $ in a name as it was typed.
override PROFILE := $(value PROFILE)
export PROFILE LAUNCHER
VENV := .venv
IN_VENV := PATH="$$PWD/$(VENV)/bin:$$PATH"
SNAKEMAKE := $(IN_VENV) python -m snakemake --profile "profiles/$$LAUNCHER" --config "profile=$$PROFILE"

.PHONY: venv reproduce plan status test test-here test-slurm bench bench-analysis reference lint lock clean
.DELETE_ON_ERROR:

venv:
	@sh make_venv.sh $(VENV) requirements.lock

reproduce: venv
	$(SNAKEMAKE)

plan: venv
	@$(SNAKEMAKE) --dry-run
	@[ ! -e "profiles/$$LAUNCHER/cluster.yaml" ] || $(IN_VENV) python -m experiments jobs \
		--profile "$$PROFILE" --cluster "profiles/$$LAUNCHER/cluster.yaml"

status: venv
	@$(IN_VENV) python -m experiments status --profile "$$PROFILE"

# Those that need a cluster mostly wait for it, so the others run beside them.
test: venv
	@$(MAKE) --no-print-directory --jobs=2 --output-sync test-here test-slurm

test-here:
	$(IN_VENV) python -m pytest --ignore=tests/slurm

test-slurm:
	$(IN_VENV) python -m pytest tests/slurm -rs

# Apart from the other, because transformers imports torchao wherever it is installed.
bench:
	@sh make_venv.sh $(VENV)-bench requirements.lock requirements-bench.lock
	PATH="$$PWD/$(VENV)-bench/bin:$$PATH" python -m experiments bench

bench-analysis: venv
	$(IN_VENV) python -m tests.measure_analysis

# The folder of a profile's results has the name of its file without the suffix, as in the Snakefile.
reference:
	@set -e; name=$$(basename -- "$$PROFILE"); name=$${name%.*}; \
	from="results/$$name"; to="results/reference/$$name"; \
	[ -n "$$name" ] && [ -e "$$from/report.html" ] || { \
		echo "error: PROFILE is '$$PROFILE', but $$from has no report: make reproduce first" >&2; exit 1; }; \
	rm -rf "$$to.new"; mkdir -p "$$to.new"; \
	cp -r "$$from/claims.csv" "$$from/claims.md" "$$from/runs.csv" "$$from/tables" "$$from/figures" "$$to.new"; \
	cp "$$(ls -t "$$from"/plans/*.yaml | head -n 1)" "$$to.new/settings.yaml"; \
	rm -rf "$$to"; mv "$$to.new" "$$to"

lint: venv
	$(IN_VENV) python -m ruff check .
	$(IN_VENV) python -m ruff format --check .
	$(IN_VENV) python -m snakefmt --check Snakefile
	$(IN_VENV) python tests/lint_snakefile.py

# Resolves pyproject.toml anew, but for torch, and writes every version it chose. Build tags (+cpu)
# and what only a CUDA build brings along are left out, so that the pins install on any machine.
lock:
	PYTHON=python3.11 sh make_venv.sh $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet torch==2.13.0 --editable '.[experiments,test]'
	{ echo '# Written by `make lock` from pyproject.toml; Python 3.11.'; \
	  $(VENV)-lock/bin/python -m pip freeze --exclude-editable | sed 's/+.*//' \
	  | grep -v -e '^nvidia-' -e '^cuda-' -e '^triton' | sort -f; } > requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-bench $(VENV)-lock $(VENV)-newest .snakemake
