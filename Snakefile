"""From a profile to its report: corpus → plan → train each run → tables, figures, claims → report.

`snakemake` makes the report of the profile `laptop`; `snakemake --config profile=smoke` that of
another profile, given by its name in experiments/config/ or by the path of a YAML file. `snakemake
--profile profiles/slurm` trains the runs on a SLURM cluster. If a single figure or table is the
target, such as results/laptop/figures/fig3a.pdf, only the runs it shows are trained. `snakemake
so_far` makes everything from the finished runs, and marks the others as missing.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from analysis.catalogue import figures, tables
from analysis.claims.definitions import definitions_of, load_claims
from experiments.memory import KEEP_FREED_MEMORY
from experiments.plan.reading import CONFIG_DIR
from experiments.plan.spec import PlanRow
from experiments.settings import digest
from experiments.workflow import Workflow, errors_exit, last_line, set_environment

set_environment(Path(workflow.basedir))
with errors_exit():
    WORKFLOW = Workflow(
        workflow.overwrite_configfiles,
        workflow.config_settings.config,
        workflow.cores,
        Path(workflow.basedir),
    )
    with WORKFLOW.lines_named():
        for paper in WORKFLOW.papers:
            load_claims(paper)
        FIGURES, TABLES = figures(WORKFLOW.rows), tables(WORKFLOW.rows)

RESULTS = f"results/{WORKFLOW.name}"
# The name is a hash of the content, so a rejected plan does not overwrite a valid one.
PLAN_FILE = f"{RESULTS}/plans/{WORKFLOW.digest}.csv"
SETTINGS_FILE = f"{RESULTS}/plans/{WORKFLOW.digest}.yaml"
CORPUS_FACTS = "results/corpora/{corpus}/meta.json"
# Figures and tables are many and small, so each is made by a fork of a process that has imported
# what they need; so are the claims and the report.
WARM = (
    "exec python -m experiments warm --package analysis"
    " --modules analysis.figures.write analysis.tables.write --"
)
KEEP_MEMORY = " ".join(f"{name}={value}" for name, value in KEEP_FREED_MEMORY.items())
RUN = WORKFLOW.folder("{model}/{optimizer}/{run}")


include: "experiments/inputs.smk"


wildcard_constraints:
    figure="|".join(map(re.escape, FIGURES)),
    table="|".join(map(re.escape, TABLES)),


onstart:
    with errors_exit():
        WORKFLOW.check_start()


onsuccess:
    if Path(f"{RESULTS}/verdicts.txt").exists():
        print(Path(f"{RESULTS}/verdicts.txt").read_text(encoding="utf-8", errors="replace"))
    if failed := WORKFLOW.failed_runs():
        sys.exit("\n  ".join([f"{len(failed)} failed; the same command tries again:", *failed]))


onerror:
    jobs = {
        Path(f"results/logs/corpus_{name}.log"): expand(CORPUS_FACTS, corpus=name)[0]
        for name in WORKFLOW.corpora
    }
    jobs[Path(f"{RESULTS}/logs/plan.log")] = PLAN_FILE
    for run in map(WORKFLOW.folder, WORKFLOW.runs):
        jobs[run.launch_log] = run.summary_file
    for job_log, made in jobs.items():
        if job_log.exists() and not Path(made).exists():
            print(f"failed: {made}", last_line(job_log), sep="\n  ")
    print("snakemake so_far makes tables, figures and the report from the finished runs")


rule all:
    input:
        f"{RESULTS}/report.html",
        # Named here as well, so that a deleted result is made again even if the report exists.
        results_of(WORKFLOW.rows),


rule corpus:
    output:
        # Shards are not declared: Snakemake would delete them before a retry, which reuses them.
        meta=CORPUS_FACTS,
    log:
        "results/logs/corpus_{corpus}.log",
    threads: workflow.cores
    params:
        spec=lambda wildcards: WORKFLOW.corpora[wildcards.corpus].model_dump_json(ensure_ascii=True),
        folder=lambda wildcards, output: Path(output.meta).parent,
    message:
        "tokenise {wildcards.corpus}"
    shell:
        "python -m experiments corpus --spec {params.spec:q} --folder {params.folder:q} > {log:q} 2>&1"


rule plan:
    input:
        expand(CORPUS_FACTS, corpus=WORKFLOW.corpora),
    output:
        runs=PLAN_FILE,
        settings=SETTINGS_FILE,
    log:
        f"{RESULTS}/logs/plan.log",
    params:
        profile=WORKFLOW.profile,
        columns=[*PlanRow.__annotations__],  # a plan of an older version is written again
        papers=WORKFLOW.papers,
    message:
        "check every run of {params.profile} before the first one trains"
    shell:
        "python -m experiments plan --profile {params.profile:q} --corpora results/corpora"
        " --output {output.runs:q} --settings {output.settings:q} > {log:q} 2>&1 && cat {log:q}"


rule train:
    input:
        needs_of,
    output:
        # training/ is not declared: Snakemake would delete the checkpoint before a retry.
        summary=RUN.summary_file,
        metrics=RUN.metrics_file,
    log:
        RUN.launch_log,
    threads: WORKFLOW.threads
    resources:
        here=0,  # a launcher does not count towards the limit in profiles/slurm/config.yaml
        # These are resources, because a changed param would train the run again. None needs that:
        # spec is part of the run's name, and the others do not change the result.
        spec=spec_of,
        job=job_of,
        tensorboard=int(WORKFLOW.options.tensorboard),
    params:
        corpus=corpus_of,
        folder=lambda wildcards, output: Path(output.summary).parent,
        # A new failure changes the param, and so triggers a retry.
        failures=lambda wildcards: WORKFLOW.folder(run_of(wildcards)).failures,
    message:
        "train {wildcards.model} with {wildcards.optimizer}, {wildcards.run}"
    shell:
        # exec: signals reach the launcher.
        f"{KEEP_MEMORY} exec python -m experiments launch"
        " --spec {resources.spec:q} --corpus {params.corpus:q}"
        " --folder {params.folder:q} --threads {threads} --job {resources.job:q}"
        " --tensorboard {resources.tensorboard} > {log:q} 2>&1"


rule extend:
    input:
        before_of,
    output:
        f"{RESULTS}/extensions/{{experiment}}/{{model}}/{{optimizer}}/{{run}}.json",
    log:
        f"{RESULTS}/logs/extensions/{{experiment}}/{{model}}/{{optimizer}}/{{run}}.log",
    threads: WORKFLOW.threads
    resources:
        here=0,
        spec=spec_of,
        job=job_of,
        tensorboard=int(WORKFLOW.options.tensorboard),
    params:
        corpus=corpus_of,
        folder=lambda wildcards: WORKFLOW.folder(run_of(wildcards)).path,
        name=run_of,
        plan=PLAN_FILE,
    message:
        "train {wildcards.model} with {wildcards.optimizer}, {wildcards.run}, if the best rate is outermost"
    shell:
        f"{KEEP_MEMORY} exec python -m experiments extend"
        " --plan {params.plan:q} --experiment {wildcards.experiment:q} --run-name {params.name:q}"
        " --spec {resources.spec:q} --corpus {params.corpus:q}"
        " --folder {params.folder:q} --threads {threads} --job {resources.job:q}"
        " --tensorboard {resources.tensorboard} --output {output:q} > {log:q} 2>&1"


include: "experiments/studies/studies.smk"


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
        digest=lambda wildcards: digest(FIGURES[wildcards.figure]),  # a changed figure is drawn again
    message:
        "draw {wildcards.figure}"
    shell:
        f"{WARM} figure {{wildcards.figure:q}} {{input.plan:q}} > {{log:q}} 2>&1"


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
        f"{WARM} table {{wildcards.table:q}} {{input.plan:q}} > {{log:q}} 2>&1"


rule claims:
    input:
        plan=PLAN_FILE,
        runs=results_of(WORKFLOW.rows),
        settings=SETTINGS_FILE,
        definitions=[definitions_of(paper) for paper in WORKFLOW.papers],
        studies=[
            "results/memory.csv",
            "results/convergence_fits.csv",
            rules.step_cost.output,
            rules.peak_memory.output,
        ],
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
        digest=WORKFLOW.digest,
    message:
        "collect all runs, and check the paper's claims"
    shell:
        f"{WARM} claims {{input.plan:q}} > {{log:q}} 2>&1"


rule report:
    input:
        rules.claims.output,
        plan=PLAN_FILE,
        settings=SETTINGS_FILE,
        figures=expand(f"{RESULTS}/figures/{{figure}}.png", figure=FIGURES),
        tables=expand(f"{RESULTS}/tables/{{table}}.md", table=TABLES),
    output:
        html=f"{RESULTS}/report.html",
        verdicts=f"{RESULTS}/verdicts.txt",
    log:
        f"{RESULTS}/logs/report.log",
    message:
        "write the report"
    shell:
        f"{WARM} report {{input.plan:q}} > {{log:q}} 2>&1"


rule so_far:
    input:
        rules.memory.output,
        rules.convergence.output,
        rules.step_cost.output,
        rules.peak_memory.output,
        plan=PLAN_FILE,
        settings=SETTINGS_FILE,
    log:
        f"{RESULTS}/logs/so_far.log",
    message:
        "make everything from the finished runs"
    shell:
        "python -m analysis all {input.plan:q} > {log:q} 2>&1"
