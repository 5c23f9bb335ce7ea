"""From a profile to its report: corpus → plan → train each run → collect → tables, figures → report.

`snakemake` runs the profile `laptop`; `snakemake --config profile=smoke` another one, by its name
in experiments/config/ or by the path of a YAML file.
"""

import shlex
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)
# The rules' commands find the packages of this checkout from any working directory.
shell.prefix(f"export PYTHONPATH={shlex.quote(workflow.basedir)}:${{{{PYTHONPATH:-}}}}; ")

from experiments.config import load_profile
from experiments.settings import ConfigError
from experiments.grid import digest, plan

try:
    if unknown := sorted(set(config) - {"profile"}):
        raise ConfigError(f"--config has {unknown[0]!r}, but it accepts only profile=NAME")
    PROFILE = str(config.get("profile", "laptop"))
    PLAN = plan(load_profile(PROFILE))
except ConfigError as error:
    sys.exit(f"error: {error}")

# A run that several experiments share stands here once.
RUNS = {run.spec.path: run.spec for run in PLAN}
CORPORA = {spec.corpus.path: spec.corpus for spec in RUNS.values()}
MODELS = list(dict.fromkeys(spec.model_name for spec in RUNS.values()))
RESULTS = f"results/{Path(PROFILE).stem}"
# Named by what it holds: one that is refused deletes no other.
PLAN_DIGEST = digest(PLAN)
PLAN_FILE = f"{RESULTS}/plans/{PLAN_DIGEST}.csv"
TABLES = expand(
    f"{RESULTS}/tables/{{table}}.{{format}}",
    table=["val_loss", "state_memory"],
    format=["csv", "md", "tex"],
)
FIGURES = expand(
    f"{RESULTS}/figures/{{figure}}.{{format}}",
    figure=[*(f"loss_{model}" for model in MODELS), "state_memory"],
    format=["pdf", "png"],
)


def spec_of(wildcards):
    return RUNS[f"{wildcards.model}/{wildcards.optimizer}/{wildcards.run}"]


def needs_of(wildcards):
    """A run needs its corpus and a checked plan, and once it is done nothing any more.

    Its name holds all that its result depends on, so no newer file could make it out of date.
    """
    spec = spec_of(wildcards)
    outputs = [f"results/runs/{spec.path}/{name}" for name in ("summary.json", "metrics.parquet")]
    if all(Path(output).exists() for output in outputs):
        return []
    return [PLAN_FILE, f"results/corpora/{spec.corpus.path}/meta.json"]


onsuccess:
    if Path(f"{RESULTS}/summary.txt").exists():
        print(Path(f"{RESULTS}/summary.txt").read_text())


onerror:
    jobs = {
        f"results/logs/corpus_{name}.log": f"results/corpora/{name}/meta.json"
        for name in CORPORA
    }
    jobs[f"{RESULTS}/logs/plan.log"] = PLAN_FILE
    jobs |= {
        f"results/runs/{run}/train.log": f"results/runs/{run}/summary.json" for run in RUNS
    }
    for job_log, made in jobs.items():
        if Path(job_log).exists() and not Path(made).exists():
            lines = Path(job_log).read_text().split("\n")
            print(f"failed: {made}", *[line for line in lines if line][-1:], sep="\n  ")


rule all:
    input:
        f"{RESULTS}/report.html",


rule corpus:
    output:
        expand(
            "results/corpora/{{corpus}}/{file}",
            file=["meta.json", "tokens.bin", "tokenizer.json"],
        ),
    log:
        "results/logs/corpus_{corpus}.log",
    params:
        spec=lambda wildcards: CORPORA[wildcards.corpus].model_dump_json(),
        folder=lambda wildcards, output: Path(output[0]).parent,
    message:
        "tokenise {wildcards.corpus}"
    shell:
        "python -m experiments corpus --spec {params.spec:q} --folder {params.folder:q} > {log:q} 2>&1"


rule plan:
    input:
        expand("results/corpora/{corpus}/meta.json", corpus=CORPORA),
    output:
        PLAN_FILE,
    log:
        f"{RESULTS}/logs/plan.log",
    params:
        profile=PROFILE,
    message:
        "check every run of {params.profile} before the first one trains"
    shell:
        "python -m experiments plan --profile {params.profile:q} --corpora results/corpora"
        " --output {output:q} > {log:q} 2>&1"


rule train:
    input:
        needs_of,
    output:
        # Checkpoint and growing metrics are not declared: Snakemake would delete them before a job.
        summary="results/runs/{model}/{optimizer}/{run}/summary.json",
        metrics="results/runs/{model}/{optimizer}/{run}/metrics.parquet",
    log:
        "results/runs/{model}/{optimizer}/{run}/train.log",
    threads: 1
    params:
        spec=lambda wildcards: spec_of(wildcards).model_dump_json(),
        corpus=lambda wildcards: f"results/corpora/{spec_of(wildcards).corpus.path}",
        folder=lambda wildcards, output: Path(output.summary).parent,
    message:
        "train {wildcards.model} with {wildcards.optimizer}, {wildcards.run}"
    shell:
        # glibc returns large tensors to the system after every step, and a small model spends much of
        # its time on taking them back; these settings keep them.
        "MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296"
        " python -m experiments train --spec {params.spec:q} --corpus {params.corpus:q}"
        " --folder {params.folder:q} --threads {threads} > {log:q} 2>&1"


rule collect:
    input:
        plan=PLAN_FILE,
        summaries=expand("results/runs/{run}/summary.json", run=RUNS),
        metrics=expand("results/runs/{run}/metrics.parquet", run=RUNS),
    output:
        runs=f"{RESULTS}/runs.csv",
        metrics=f"{RESULTS}/metrics.parquet",
    log:
        f"{RESULTS}/logs/collect.log",
    params:
        folder=lambda wildcards: RESULTS,
        digest=PLAN_DIGEST,  # runs it again when the plan changes
    message:
        "collect the metrics of all runs"
    shell:
        "python -m analysis collect {params.folder:q} --plan {input.plan:q} --runs results/runs"
        " > {log:q} 2>&1"


rule tables:
    input:
        rules.collect.output,
    output:
        TABLES,
    log:
        f"{RESULTS}/logs/tables.log",
    params:
        folder=lambda wildcards: RESULTS,
    message:
        "write the tables"
    shell:
        "python -m analysis tables {params.folder:q} > {log:q} 2>&1"


rule figures:
    input:
        rules.collect.output,
    output:
        FIGURES,
    log:
        f"{RESULTS}/logs/figures.log",
    params:
        folder=lambda wildcards: RESULTS,
    message:
        "draw the figures"
    shell:
        "python -m analysis figures {params.folder:q} > {log:q} 2>&1"


rule report:
    input:
        rules.collect.output,
        TABLES,
        FIGURES,
    output:
        html=f"{RESULTS}/report.html",
        summary=f"{RESULTS}/summary.txt",
    log:
        f"{RESULTS}/logs/report.log",
    params:
        folder=lambda wildcards: RESULTS,
    message:
        "write the report"
    shell:
        "python -m analysis report {params.folder:q} > {log:q} 2>&1"
