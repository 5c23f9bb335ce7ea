# Functions that return the inputs and parameters of the Snakefile's rules.


def results_of(rows):
    """Return the files of each run's result; of a run that may follow, the decision on it."""
    files = {}
    for row in rows:
        if row["extension"]:
            files[WORKFLOW.decision_file(row["experiment"], row["run"])] = None
        else:
            run = WORKFLOW.folder(row["run"])
            files |= {run.summary_file: None, run.metrics_file: None}
    return [*files]


def run_of(wildcards):
    """Return the name of a run, RunSpec.path."""
    return f"{wildcards.model}/{wildcards.optimizer}/{wildcards.run}"


def spec_of(wildcards):
    """Return a run's spec as JSON."""
    return WORKFLOW.runs[run_of(wildcards)].model_dump_json(ensure_ascii=True)


def job_of(wildcards):
    """Return the settings of a run's SLURM job as JSON."""
    return WORKFLOW.job_of(run_of(wildcards))


def corpus_of(wildcards):
    """Return the folder of a run's corpus."""
    return WORKFLOW.corpus_of(run_of(wildcards))


def needs_of(wildcards):
    """Return the inputs of a run: its corpus and the checked plan, or nothing if it is done.

    The folder name hashes every input, so newer timestamps cannot invalidate a result.
    """
    run = run_of(wildcards)
    if WORKFLOW.folder(run).is_done:
        return []
    return [PLAN_FILE, *expand(CORPUS_FACTS, corpus=WORKFLOW.runs[run].corpus.path)]


def before_of(wildcards):
    """Return the inputs of a run that may follow: its own, and those that decide on it."""
    deciding = WORKFLOW.before(wildcards.experiment, run_of(wildcards))
    return [PLAN_FILE, *needs_of(wildcards), *results_of(deciding)]


def inputs_of(artefact):
    """Return the inputs of a figure or a table: the plan, its runs, and its studies."""
    return {
        "plan": PLAN_FILE,
        "runs": results_of(artefact.rows) if artefact.trained else [],
        "studies": expand("results/{study}", study=artefact.needs),
    }
