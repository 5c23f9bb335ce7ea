# Targets; each makes the virtual environment .venv first unless it says otherwise:
#   make reproduce                 train and report the profile `laptop`
#   make reproduce PROFILE=smoke   the same for a small profile, in a few minutes
#   make reproduce LAUNCHER=slurm  the same on a cluster: each run is a SLURM job
#   make plan                      show what would be done, what it costs here, and what each job asks for
#   make status                    show the progress of every run
#   make test                      run the tests
#   make test-field                compare the optimizers of other libraries with their papers
#   make test-gpu                  run the tests that need a CUDA GPU
#   make kill-test                 kill processes of small profiles at random, and compare results
#   make lint                      run the linters
#   make check OPTIMIZER=name      check how an optimizer behaves; without OPTIMIZER, all of them
#   make bench                     measure a step of each optimizer, with those of EXTRA=field
#   make bench-train               measure the speed of training beside a plain loop
#   make bench-sharding            measure the memory of processes that share a model
#   make bench-analysis            measure the analysis of 500 runs
#   make false-positives           measure how often each rule of the verdicts decides wrongly
#   make reference                 copy a profile's results to results/reference/; makes no .venv
#   make bundles                   write a profile's finished runs to results/reference/, as small files
#   make restore                   restore the runs of a profile from there, so that they do not train
#   make rejudge                   judge the claims in results/reference/ again, without training
#   make venv                      make .venv, or .venv-field with EXTRA=field
#   make lock                      write requirements.lock from pyproject.toml; makes no .venv
#   make clean                     delete the environments
# EXTRA=field: use the environment .venv-field, which also has the optimizers of the extra `field`.
# PYTHON=… is the Python to make an environment with; make_venv.sh says which are accepted.

PROFILE ?= laptop
LAUNCHER ?= default
# Recipes read these from their environment, as "$$PROFILE", so that blanks and quotes in a name are
# safe. `value` leaves a $ in a name as it is.
override PROFILE := $(value PROFILE)
export PROFILE LAUNCHER OPTIMIZER
# The optimizers of others have an environment of their own: transformers imports torchao wherever it
# is installed, which takes seconds.
EXTRA :=
ifneq ($(filter-out field,$(EXTRA)),)
$(error EXTRA is '$(EXTRA)', but it must be field)
endif
VENV = .venv$(EXTRA:%=-%)
IN_VENV = PATH="$$PWD/$(VENV)/bin:$$PATH"
SNAKEMAKE = $(IN_VENV) python -m snakemake --profile "profiles/$$LAUNCHER" --config "profile=$$PROFILE"

.PHONY: venv reproduce plan status test test-here test-slurm test-gpu test-field kill-test check bench bench-train bench-sharding bench-analysis false-positives reference bundles restore rejudge lint lock clean
.DELETE_ON_ERROR:

venv:
	@sh make_venv.sh $(VENV) requirements.lock $(EXTRA:%=requirements-%.lock)

reproduce: venv
	$(SNAKEMAKE)

plan: venv
	@$(SNAKEMAKE) --dry-run
	@$(IN_VENV) python -m experiments budget --profile "$$PROFILE"
	@[ ! -e "profiles/$$LAUNCHER/cluster.yaml" ] || $(IN_VENV) python -m experiments jobs \
		--profile "$$PROFILE" --cluster "profiles/$$LAUNCHER/cluster.yaml"

status: venv
	@$(IN_VENV) python -m experiments status --profile "$$PROFILE"

# The tests of SLURM mostly wait for their jobs, so the other tests run at the same time.
test:
	@$(MAKE) --no-print-directory --jobs=2 --output-sync test-here test-slurm

test-here: venv
	$(IN_VENV) python -m pytest --ignore=tests/slurm

test-slurm: venv
	$(IN_VENV) python -m pytest tests/slurm -rs

test-gpu: venv
	$(IN_VENV) python -m pytest tests/gpu -rs

kill-test: venv
	$(IN_VENV) python -m tests.measure_kills

test-field: EXTRA := field
test-field: venv
	$(IN_VENV) python -m pytest tests/field

check: venv
	@$(IN_VENV) python -m experiments check --profile "$$PROFILE" $${OPTIMIZER:+--optimizer $$OPTIMIZER}

bench: EXTRA := field
bench: venv
	$(IN_VENV) python -m experiments bench

bench-train: venv
	$(IN_VENV) python -m experiments bench-train

bench-sharding: venv
	$(IN_VENV) python -m tests.measure_sharding

bench-analysis: venv
	$(IN_VENV) python -m tests.measure_analysis

false-positives: venv
	$(IN_VENV) python -m tests.measure_rules

# A profile's results are in a folder with the name of its file, without the suffix.
reference:
	@set -e; name=$$(basename -- "$$PROFILE"); name=$${name%.*}; \
	from="results/$$name"; to="results/reference/$$name"; \
	[ -n "$$name" ] && [ -e "$$from/report.html" ] || { \
		echo "error: PROFILE is '$$PROFILE', but $$from has no report: make reproduce first" >&2; exit 1; }; \
	rm -rf "$$to.new"; mkdir -p "$$to.new"; \
	cp -r "$$from/claims.csv" "$$from/claims.md" "$$from/runs.csv" "$$from/tables" "$$from/figures" "$$to.new"; \
	cp "$$(ls -t "$$from"/plans/*.yaml | head -n 1)" "$$to.new/settings.yaml"; \
	[ ! -e "$$to/bundles" ] || mv "$$to/bundles" "$$to.new"; \
	rm -rf "$$to"; mv "$$to.new" "$$to"

# FROM is the folder of the bundles; others' bundles may be anywhere.
FROM ?=
override FROM := $(value FROM)
export FROM

bundles: venv
	@name=$$(basename -- "$$PROFILE"); $(IN_VENV) python -m experiments bundles \
		--profile "$$PROFILE" --folder "results/reference/$${name%.*}/bundles"

restore: venv
	@name=$$(basename -- "$$PROFILE"); $(IN_VENV) python -m experiments restore \
		"$${FROM:-results/reference/$${name%.*}/bundles}"

rejudge: venv
	$(SNAKEMAKE) -- results/memory.csv results/convergence_fits.csv results/step_cost.csv results/peak_memory.csv
	$(IN_VENV) python -m analysis rejudge "results/reference/$$PROFILE/runs.csv"

lint: venv
	$(IN_VENV) python -m ruff check .
	$(IN_VENV) python -m ruff format --check .
	$(IN_VENV) python -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-cache
	$(IN_VENV) python -m snakefmt --check Snakefile experiments/inputs.smk experiments/studies/studies.smk
	$(IN_VENV) python tests/lint_snakefile.py

# Resolves pyproject.toml, with torch pinned, and writes all versions. Build tags (+cpu) and packages
# of CUDA builds are left out, so that the pins install on any machine.
lock:
	PYTHON=python3.11 sh make_venv.sh $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet torch==2.13.0 --editable '.[experiments,test]'
	{ echo '# Written by `make lock` from pyproject.toml; Python 3.11.'; \
	  $(VENV)-lock/bin/python -m pip freeze --exclude-editable | sed 's/+.*//' \
	  | grep -v -e '^nvidia-' -e '^cuda-' -e '^triton' | sort -f; } > requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf .venv .venv-field .venv-lock .venv-newest .snakemake
