# The studies that need no trained language model; all profiles share their results.


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
        horizons="results/convergence_horizons.csv",
    log:
        "results/logs/convergence.log",
    message:
        "measure the rate of convergence on a noisy problem"
    shell:
        "python -m experiments convergence --output {output.curves:q} > {log:q} 2>&1"


rule step_cost:
    output:
        "results/step_cost.csv",
    log:
        "results/logs/step_cost.log",
    threads: workflow.cores  # alone, because other jobs would slow its steps down
    message:
        "measure the time of an optimizer step"
    shell:
        "python -m experiments step-cost --output {output:q} > {log:q} 2>&1"


rule peak_memory:
    output:
        "results/peak_memory.csv",
    log:
        "results/logs/peak_memory.log",
    threads: workflow.cores  # alone, because it takes gigabytes
    message:
        "measure the peak memory of training GPT-2 124M"
    shell:
        "python -m experiments peak-memory --output {output:q} > {log:q} 2>&1"
