"""Fork servers for tests, owned by a process that stands for Snakemake's."""

import subprocess
import sys
from contextlib import contextmanager

import psutil

_OWNER = (
    "import os, sys; from experiments.launch.warm import offer_warm_processes;"
    " offer_warm_processes(); print(os.environ['POWERSTEP_FORK_SERVER'], flush=True);"
    " sys.stdin.read()"
)


@contextmanager
def owner():
    """Yield the folder that a process offers for a fork server; the process ends with the block."""
    with owning_process() as (_, folder):
        yield folder


@contextmanager
def owning_process():
    """Yield the process and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.communicate()


def server_of(folder):
    """Return the fork server of a folder as a psutil.Process; None if there is none."""
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if "fork-server" in line and folder in line:
            return process
    return None
