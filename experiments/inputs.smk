# Functions that return the inputs of the Snakefile's rules.


def results_of(runs):
    """Return the files of each run's result."""
    folders = [WORKFLOW.folder(run) for run in runs]
    return [file for run in folders for file in (run.summary_file, run.metrics_file)]


def run_of(wildcards):
    """Return the name of a run, RunSpec.path."""
    return f"{wildcards.model}/{wildcards.optimizer}/{wildcards.run}"


def needs_of(wildcards):
    """Return the inputs of a run: its corpus and the checked plan, or nothing if it is done.

    The folder name hashes every input, so newer timestamps cannot invalidate a result.
    """
    run = run_of(wildcards)
    if WORKFLOW.folder(run).is_done:
        return []
    return [PLAN_FILE, *expand(CORPUS_FACTS, corpus=WORKFLOW.runs[run].corpus.path)]


def inputs_of(artefact):
    """Return the inputs of a figure or a table: the plan, its runs, and its studies."""
    runs = dict.fromkeys(row["run"] for row in artefact.rows if artefact.trained)
    return {
        "plan": PLAN_FILE,
        "runs": results_of(runs),
        "studies": expand("results/{study}", study=artefact.needs),
    }
