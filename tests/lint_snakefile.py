"""Run `snakemake --lint`; its wish for a conda environment in each rule does not count."""

import re
import subprocess
import sys

NOT_WANTED = "Specify a conda environment or container for each rule.:"

# As text: snakemake 9 prints nothing for `--lint json`.
done = subprocess.run(["snakemake", "--lint"], capture_output=True, text=True, check=False)
report = done.stdout + done.stderr
found = re.findall(r"^    \* (.*)$", report, re.MULTILINE)
if (done.returncode and not found) or set(found) - {NOT_WANTED}:
    sys.exit(report)
