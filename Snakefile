"""From a profile to its report: corpus → plan → train each run → tables, figures, claims → report.

`snakemake` runs the profile `laptop`; `snakemake --config profile=smoke` another one, by its name
in experiments/config/ or by the path of a YAML file. `snakemake --profile profiles/slurm` has the
runs trained by a SLURM cluster. A figure or a table asked for by its path, such
as results/laptop/figures/fig3a.pdf, trains only the runs it shows. `snakemake so_far` makes everything
from the runs that are done, and marks the others as missing.
"""

import codecs
import locale
import os
import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)
# Logs are written in what both UTF-8 and the locale's encoding can read, and Snakemake show.
is_utf8 = codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"
os.environ |= {
    # The rules' commands find the packages of this checkout from any working directory.
    "PYTHONPATH": os.pathsep.join(filter(None, [workflow.basedir, os.environ.get("PYTHONPATH")])),
    # They read neither the user's matplotlibrc nor their backend: a broken one would end the import
    # of matplotlib, which Lightning imports too.
    "MATPLOTLIBRC": str(Path(workflow.basedir, "analysis", "style.mplstyle")),
    "MPLBACKEND": "agg",
    "PYTHONIOENCODING": f"{'utf-8' if is_utf8 else 'ascii'}:backslashreplace",
}
# A character that the terminal lacks ends no run that went well.
sys.stdout.reconfigure(errors="backslashreplace")

from snakemake.utils import update_config

from analysis.catalogue import figures, tables
from experiments.launch.slurm.settings import parse_cluster
from experiments.plan.reading import CONFIG_DIR
from experiments.plan.reading import lines_named
from experiments.plan.reading import load_profile
from experiments.files import check_folder, make_folder
from experiments.launch.gpus import visible_gpus
from experiments.settings import digest
from experiments.plan.grid import plan
from experiments.plan.options import Options
from experiments.runs.folder import RunFolder
from experiments.settings import ConfigError, parse
from experiments.launch.slurm.jobs import check_cluster
from experiments.yaml_loader import read_yaml

try:
    given = {}
    # Read again: Snakemake's own reader of YAML lets a key stand twice, and takes 010 for 8.
    for path in workflow.overwrite_configfiles:
        update_config(given, read_yaml(path))
    update_config(given, workflow.config_settings.config)
    OPTIONS = parse(Options, given)
    # On this machine: a run on each GPU, or on each core. They share what cores there are.
    RUNS_AT_ONCE = OPTIONS.runs_at_once or len(visible_gpus()) or workflow.cores
    PROFILE = OPTIONS.profile
    if (name := Path(PROFILE).stem) in ("bench", "corpora", "logs", "reference", "runs"):
        raise ConfigError((), f"profile is {name!r}, but results/{name} holds other things: rename it")
    for path in (name, workflow.basedir):
        if set(path) & set("{}"):
            raise ConfigError((), f"{path!r} has a brace, which is a wildcard in Snakemake: rename it")
    if any("\udc80" <= character <= "\udcff" for character in name):
        raise ConfigError(
            (), f"profile is {name!r}, which is no text in this locale: set LC_ALL=C.UTF-8"
        )
    with lines_named(PROFILE, *workflow.overwrite_configfiles):
        profile = load_profile(PROFILE)
        PLAN = plan(profile)
        ROWS = [run.row() for run in PLAN]
        FIGURES = figures(ROWS)
        TABLES = tables(ROWS)
        CLUSTER = parse_cluster(OPTIONS.slurm, profile.models) if "slurm" in given else None
        JOBS = {}
        if CLUSTER:
            for run in PLAN:
                optimizer = profile.optimizers[run.spec.optimizer.name]
                JOBS[run.spec.path] = CLUSTER.job_of(run.spec.model_name, optimizer.sharded)
                JOBS[run.spec.path].check(run.spec, "slurm")
    for folder in ("corpora", "logs", Path(PROFILE).stem):
        check_folder(Path("results", folder))
    for path in dict.fromkeys(run.spec.path for run in PLAN):
        check_folder(Path("results/runs", path))
        # Snakemake then makes them again: from training/ where that is whole.
        for damaged in RunFolder(Path("results/runs", path)).set_aside_damaged():
            print(f"{damaged} was damaged: it is now {damaged.name}.damaged", file=sys.stderr)
except ConfigError as error:
    sys.exit(f"error: {error}")

# A run that several experiments share stands here once.
RUNS = {run.spec.path: run.spec for run in PLAN}
CORPORA = {spec.corpus.path: spec.corpus for spec in RUNS.values()}
RESULTS = f"results/{Path(PROFILE).stem}"
# Named by what it holds: one that is refused deletes no other.
PLAN_DIGEST = digest(PLAN)
PLAN_FILE = f"{RESULTS}/plans/{PLAN_DIGEST}.csv"
SETTINGS_FILE = f"{RESULTS}/plans/{PLAN_DIGEST}.yaml"
THREADS = 0 if CLUSTER else max(1, workflow.cores // RUNS_AT_ONCE)


def spec_of(wildcards):
    return RUNS[f"{wildcards.model}/{wildcards.optimizer}/{wildcards.run}"]


def folder_of(wildcards):
    return RunFolder(Path("results/runs", spec_of(wildcards).path))


def failed_runs():
    """Return a line for each run that ended without a result."""
    folders = [RunFolder(Path("results/runs", run)) for run in RUNS]
    outcomes = [(folder.path, folder.summary) for folder in folders]
    return [
        f"{path}: {summary['status']}, {summary['reason']}"
        for path, summary in outcomes
        if "reason" in summary
    ]


def needs_of(wildcards):
    """A run needs its corpus and a checked plan, and once it is done nothing any more.

    Its name holds all that its result depends on, so no newer file could make it out of date.
    """
    spec = spec_of(wildcards)
    if folder_of(wildcards).is_done:
        return []
    return [PLAN_FILE, f"results/corpora/{spec.corpus.path}/meta.json"]


def how(wildcards):
    """How a run is trained: options of its launcher on which its result does not depend."""
    options = ["--tensorboard"] if OPTIONS.tensorboard else []
    if CLUSTER:
        job = JOBS[spec_of(wildcards).path].model_dump_json(
            exclude_defaults=True, ensure_ascii=True
        )
        options += ["--job", job, "--queue", "results/logs/slurm_queue.json"]
    return shlex.join(options)


def inputs_of(artefact):
    """What a figure or a table is made of: the plan, its own runs, and the studies it shows."""
    runs = dict.fromkeys(row["run"] for row in artefact.rows if artefact.trained)
    return {
        "plan": PLAN_FILE,
        "runs": expand(
            "results/runs/{run}/{file}", run=runs, file=["summary.json", "metrics.parquet"]
        ),
        "studies": expand("results/{study}", study=artefact.needs),
    }


wildcard_constraints:
    figure="|".join(map(re.escape, FIGURES)),
    table="|".join(map(re.escape, TABLES)),


onstart:
    try:
        make_folder(Path("results"))
        if CLUSTER:
            with lines_named(PROFILE, *workflow.overwrite_configfiles):
                check_cluster(CLUSTER, {spec.model_name for spec in RUNS.values()})
    except ConfigError as error:
        sys.exit(f"error: {error}")


onsuccess:
    if Path(f"{RESULTS}/summary.txt").exists():
        print(Path(f"{RESULTS}/summary.txt").read_text(encoding="utf-8", errors="replace"))
    if failed := failed_runs():
        sys.exit("\n  ".join([f"{len(failed)} failed; the same command tries again:", *failed]))


onerror:
    jobs = {
        f"results/logs/corpus_{name}.log": f"results/corpora/{name}/meta.json"
        for name in CORPORA
    }
    jobs[f"{RESULTS}/logs/plan.log"] = PLAN_FILE
    jobs |= {
        f"results/runs/{run}/launch.log": f"results/runs/{run}/summary.json" for run in RUNS
    }
    for job_log, made in jobs.items():
        if Path(job_log).exists() and not Path(made).exists():
            lines = Path(job_log).read_text(encoding="utf-8", errors="replace").split("\n")
            print(f"failed: {made}", *[line for line in lines if line][-1:], sep="\n  ")
    print("snakemake so_far makes tables, figures and the report from the runs that are done")


rule all:
    input:
        f"{RESULTS}/report.html",
        # A result that was deleted or damaged is made again, also where all that shows it is there.
        expand("results/runs/{run}/{file}", run=RUNS, file=["summary.json", "metrics.parquet"]),


rule corpus:
    output:
        # Shards are not declared: Snakemake would delete them before a job that goes on with them.
        meta="results/corpora/{corpus}/meta.json",
    log:
        "results/logs/corpus_{corpus}.log",
    threads: workflow.cores
    params:
        spec=lambda wildcards: CORPORA[wildcards.corpus].model_dump_json(ensure_ascii=True),
        folder=lambda wildcards, output: Path(output.meta).parent,
    message:
        "tokenise {wildcards.corpus}"
    shell:
        "python -m experiments corpus --spec {params.spec:q} --folder {params.folder:q} > {log:q} 2>&1"


rule plan:
    input:
        expand("results/corpora/{corpus}/meta.json", corpus=CORPORA),
    output:
        runs=PLAN_FILE,
        settings=SETTINGS_FILE,
    log:
        f"{RESULTS}/logs/plan.log",
    params:
        profile=PROFILE,
    message:
        "check every run of {params.profile} before the first one trains"
    shell:
        "python -m experiments plan --profile {params.profile:q} --corpora results/corpora"
        " --output {output.runs:q} --settings {output.settings:q} > {log:q} 2>&1"


rule train:
    input:
        needs_of,
    output:
        # What it is computed with is not declared: Snakemake would delete it before a job.
        summary="results/runs/{model}/{optimizer}/{run}/summary.json",
        metrics="results/runs/{model}/{optimizer}/{run}/metrics.parquet",
    log:
        "results/runs/{model}/{optimizer}/{run}/launch.log",
    threads: THREADS
    resources:
        here=0,
        # No parameters: a change of those trains the run again. A change of these does not change
        # its result, as where its corpus is read from, or it changes the name of the run.
        spec=lambda wildcards: spec_of(wildcards).model_dump_json(ensure_ascii=True),
        how=how,
    params:
        corpus=lambda wildcards: f"results/corpora/{spec_of(wildcards).corpus.path}",
        folder=lambda wildcards, output: Path(output.summary).parent,
        # One more than when it was trained last: it is tried again.
        failures=lambda wildcards: folder_of(wildcards).failures,
    message:
        "train {wildcards.model} with {wildcards.optimizer}, {wildcards.run}"
    shell:
        # glibc returns large tensors to the system after every step, and a small model spends much of
        # its time on taking them back; these settings keep them. exec: signals reach the launcher.
        "MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296"
        " exec python -m experiments launch --spec {resources.spec:q} --corpus {params.corpus:q}"
        " --folder {params.folder:q} --threads {threads} {resources.how} > {log:q} 2>&1"


rule memory:
    input:
        CONFIG_DIR / "models.yaml",
        CONFIG_DIR / "optimizers.yaml",
    output:
        "results/memory.csv",
    log:
        "results/logs/memory.log",
    message:
        "count the optimizer state of every model at full size"
    shell:
        "python -m experiments memory --output {output:q} > {log:q} 2>&1"


rule convergence:
    output:
        curves="results/convergence.csv",
        fits="results/convergence_fits.csv",
    log:
        "results/logs/convergence.log",
    message:
        "measure the rate of convergence on a noisy problem"
    shell:
        "python -m experiments convergence --output {output.curves:q} > {log:q} 2>&1"


rule figure:
    input:
        unpack(lambda wildcards: inputs_of(FIGURES[wildcards.figure])),
    output:
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
        png=report(
            f"{RESULTS}/figures/{{figure}}.png", category="figures", labels={"name": "{figure}"}
        ),
        csv=f"{RESULTS}/figures/{{figure}}.csv",
    log:
        f"{RESULTS}/logs/figure_{{figure}}.log",
    params:
        digest=lambda wildcards: digest(FIGURES[wildcards.figure]),  # draws it again when it changes
    message:
        "draw {wildcards.figure}"
    shell:
        "python -m analysis figure {wildcards.figure:q} {input.plan:q} > {log:q} 2>&1"


rule table:
    input:
        unpack(lambda wildcards: inputs_of(TABLES[wildcards.table])),
    output:
        csv=report(f"{RESULTS}/tables/{{table}}.csv", category="tables", labels={"name": "{table}"}),
        md=f"{RESULTS}/tables/{{table}}.md",
        tex=f"{RESULTS}/tables/{{table}}.tex",
    log:
        f"{RESULTS}/logs/table_{{table}}.log",
    params:
        digest=lambda wildcards: digest(TABLES[wildcards.table]),
    message:
        "write {wildcards.table}"
    shell:
        "python -m analysis table {wildcards.table:q} {input.plan:q} > {log:q} 2>&1"


rule claims:
    input:
        plan=PLAN_FILE,
        summaries=expand("results/runs/{run}/summary.json", run=RUNS),
        metrics=expand("results/runs/{run}/metrics.parquet", run=RUNS),
        studies=["results/memory.csv", "results/convergence_fits.csv"],
    output:
        claims=report(
            f"{RESULTS}/claims.csv", category="claims", labels={"name": "verdicts and findings"}
        ),
        readable=f"{RESULTS}/claims.md",
        runs=f"{RESULTS}/runs.csv",
        metrics=f"{RESULTS}/metrics.parquet",
    log:
        f"{RESULTS}/logs/claims.log",
    params:
        digest=PLAN_DIGEST,
    message:
        "collect all runs, and hold them against the paper's claims"
    shell:
        "python -m analysis claims {input.plan:q} > {log:q} 2>&1"


rule report:
    input:
        rules.claims.output,
        plan=PLAN_FILE,
        settings=SETTINGS_FILE,
        figures=expand(f"{RESULTS}/figures/{{figure}}.png", figure=FIGURES),
        tables=expand(f"{RESULTS}/tables/{{table}}.md", table=TABLES),
    output:
        html=f"{RESULTS}/report.html",
        summary=f"{RESULTS}/summary.txt",
    log:
        f"{RESULTS}/logs/report.log",
    message:
        "write the report"
    shell:
        "python -m analysis report {input.plan:q} > {log:q} 2>&1"


rule so_far:
    input:
        rules.memory.output,
        rules.convergence.output,
        plan=PLAN_FILE,
        settings=SETTINGS_FILE,
    log:
        f"{RESULTS}/logs/so_far.log",
    message:
        "make everything from the runs that are done"
    shell:
        "python -m analysis all {input.plan:q} > {log:q} 2>&1"
