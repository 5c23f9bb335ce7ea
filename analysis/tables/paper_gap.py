"""The table of PowerStep's gap to AdamW in the paper's own tables."""

import pandas as pd

from analysis.frames import Results
from analysis.papers.trend import paper_gaps
from analysis.tables.cells import Table


def paper_gap(_: Results) -> Table:
    """Return the gap of each model of tables 4 and 6, in nats and as a factor of tokens."""
    numbers = paper_gaps()
    shown = pd.DataFrame(
        {
            "parameters": numbers["parameters"].map("{:.3g}".format),
            "tokens per parameter": (numbers["tokens"] / numbers["parameters"]).map(
                "{:.3g}".format
            ),
            "AdamW": numbers["adamw"].map("{:.3f}".format),
            "PowerStep": numbers["powerstep"].map("{:.3f}".format),
            "state": numbers["state"],
            "gap": numbers["gap"].map("{:+.3f}".format),
            "token factor": numbers["token_factor"].map("{:.2f}".format),
        }
    )
    return numbers, shown.set_index(pd.Index(numbers["model"], name="model"))
