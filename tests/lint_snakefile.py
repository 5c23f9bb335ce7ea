"""Run `snakemake --lint`; its wish for a conda environment in each rule does not count."""

import re
import subprocess
import sys

NOT_WANTED = "Specify a conda environment or container for each rule.:"

# As text: snakemake 9 prints nothing for `--lint json`.
command = [sys.executable, "-m", "snakemake", "--lint"]
done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
report = done.stdout + done.stderr
found = re.findall(r"^    \* (.*)$", report, re.MULTILINE)
if (done.returncode and not found) or set(found) - {NOT_WANTED}:
    sys.exit(report)
