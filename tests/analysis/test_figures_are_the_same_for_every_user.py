"""The user's matplotlib settings neither change a figure nor break its drawing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.analysis.conftest import planned, write_plan, write_run

ROOT = Path(__file__).parent.parent.parent

OWN = """
text.usetex: True
font.family: serif
font.serif: cmr10
figure.facecolor: red
axes.facecolor: black
axes.prop_cycle: cycler("color", ["f00", "0f0"])
axes.edgecolor: green
axes.formatter.use_mathtext: True
lines.marker: s
lines.markersize: 12
savefig.facecolor: yellow
savefig.pad_inches: 2
savefig.transparent: True
xtick.direction: in
mathtext.fontset: stix
legend.fontsize: 20
figure.autolayout: True
image.cmap: gray
path.simplify: False
"""

FIGURES = ["fig1", "fig2a"]  # one without runs, and one with labelled curves


def draw(folder, **environment):
    """Draw figures in a process of its own, as the Snakefile's rules do; return their folder."""
    row = planned("powerstep")
    write_run(folder, row, 3.0)
    plan = write_plan(folder, [row])
    code = (
        "import sys;"
        "from analysis.__main__ import main;"
        "[main(['figure', name, sys.argv[1]]) for name in sys.argv[2:]]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, plan, *FIGURES],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "mine" / "figures"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return the folder of figures that were drawn without user settings."""
    return draw(tmp_path_factory.mktemp("plain"), MATPLOTLIBRC=os.devnull)


def in_a_file_of_the_users(folder):
    (folder / "own").write_text(OWN, encoding="utf-8")
    return {"MATPLOTLIBRC": str(folder / "own"), "MPLBACKEND": "svg"}


def in_the_working_directory(folder):
    (folder / "matplotlibrc").write_text(OWN, encoding="utf-8")
    return {"MATPLOTLIBRC": str(folder / "none")}


@pytest.mark.parametrize("settings", [in_a_file_of_the_users, in_the_working_directory])
def test_the_users_settings_do_not_show(expected, tmp_path, settings):
    drawn = draw(tmp_path, **settings(tmp_path))
    for name in FIGURES:
        ours, theirs = (Image.open(folder / f"{name}.png") for folder in (expected, drawn))
        assert ours.size == theirs.size
        assert ImageChops.difference(ours.convert("RGBA"), theirs.convert("RGBA")).getbbox() is None
        assert (expected / f"{name}.pdf").read_bytes() == (drawn / f"{name}.pdf").read_bytes()
