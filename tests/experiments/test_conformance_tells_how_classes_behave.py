"""`python -m experiments check` finds each fault of an optimizer, and no other."""

import re
import subprocess
import sys

import pytest
import yaml

from experiments.conformance.check import NAMES, check, findings
from experiments.optimizers.settings import OptimizerSettings
from experiments.settings import ConfigError
from tests.conftest import profile_values
from tests.experiments import optimizers_of_others as others
from tests.experiments import optimizers_that_misbehave as faults
from tests.experiments import optimizers_that_switch as switching


def entry_of(path, **settings):
    path = path if "." in path else f"{faults.__name__}.{path}"
    values = {"label": "mine", "class": path, "source": "a test"} | settings
    return OptimizerSettings.model_validate(values)


def failed(found):
    return {name: finding.note for name, finding in found.items() if finding.answer == "no"}


@pytest.mark.parametrize(
    ("path", "settings", "inapplicable"),
    [
        ("torch.optim.AdamW", {}, ["modes"]),
        ("Plain", {"sharded": False}, ["modes", "fsdp"]),
        (f"{others.__name__}.DivergesAtLargeRates", {"sharded": False}, ["modes", "fsdp"]),
        (f"{switching.__name__}.ScheduleFree", {}, []),
        (f"{switching.__name__}.ScheduleFreeWithAttribute", {}, []),
        (
            "torch.optim.LBFGS",
            {"closure": True},
            ["gradients", "modes", "nan", "ddp", "fsdp"],
        ),
    ],
)
def test_a_class_without_faults_passes(path, settings, inapplicable):
    found = findings("mine", entry_of(path, **settings))
    assert list(found) == list(NAMES)
    assert failed(found) == {}
    skipped = [name for name, finding in found.items() if finding.answer == "not applicable"]
    assert skipped == inapplicable


@pytest.mark.parametrize(
    ("path", "faulty", "note"),
    [
        ("NeverLearns", "learns", "after 40 steps the loss is 4.88 at lr 0.01, 4.88"),
        ("ChangesGradients", "gradients", "a step changes them, for example that of token_emb"),
        ("ForgetsItsState", "resumes", "a resumed run differs in 100.0% of the weights"),
        (
            f"{others.__name__}.KeepsAnObject",
            "resumes",
            "weights_only=True does not load what its state contains: fractions.Fraction",
        ),
        ("Drifts", "modes", "a second call of eval changes the weights again"),
        (f"{others.__name__}.ForgetsItsMomentum", "modes", "after eval and train, training ends "),
        (
            "RefusesNaN",
            "nan",
            "it raises ValueError: not a number (optimizers_that_misb",
        ),
        ("TakesItsOwnWay", "ddp", "two processes end "),
        ("TakesShardsForWholes", "fsdp", "two processes end "),
    ],
)
def test_a_fault_is_found(path, faulty, note):
    found = findings("mine", entry_of(path))
    assert failed(found)[faulty].startswith(note)
    others = {"TakesItsOwnWay": {"fsdp"}, "Drifts": {"resumes", "learns"}}.get(path, set())
    assert failed(found).keys() <= {faulty} | others


def test_what_is_not_deterministic_is_found():
    found = failed(findings("mine", entry_of("DrawsItsOwnNumbers", sharded=False)))
    assert found.keys() == {"gradients", "resumes", "deterministic", "ddp"}
    assert "a second run with the same seed differs in " in found["deterministic"]


def test_a_class_that_leaves_in_its_step_fails_every_check_that_steps():
    found = findings("mine", entry_of(f"{others.__name__}.LeavesInItsStep"))
    assert failed(found).keys() == {*NAMES} - {"imports", "modes"}
    for note in failed(found).values():
        assert note.startswith("it raises SystemExit: no licence (optimizers_of_others.py, line")


def test_the_error_of_the_process_that_failed_first_is_told():
    found = failed(findings("mine", entry_of(f"{others.__name__}.RaisesInOneProcess")))
    assert found.keys() == {"ddp", "fsdp"}
    for note in found.values():
        assert note.startswith("it raises ValueError: not the first (optimizers_of_others.py,")


@pytest.mark.parametrize(
    ("path", "faulty"),
    [
        ("EndsItsProcess", {*NAMES} - {"imports", "modes"}),
        (f"{others.__name__}.EndsItsProcessOnNaN", {"nan"}),
    ],
)
def test_a_process_that_dies_fails_only_the_check_in_which_it_dies(path, faulty):
    found = findings("mine", entry_of(path))
    assert failed(found) == dict.fromkeys(faulty, "its process dies with exit code -9")


@pytest.mark.parametrize(
    ("path", "note"),
    [
        ("torch.optim.NoSuch", "optimizers.mine.class is 'torch.optim.NoSuch', but it must be imp"),
        ("torch.optim.LBFGS", "optimizers.mine.class is 'torch.optim.LBFGS', but its step needs"),
        (
            f"{others.__name__}.TakesAnything",
            f"optimizers.mine.class is '{others.__name__}.TakesAnything', but its co",
        ),
    ],
)
def test_a_class_that_cannot_be_made_is_told(path, note):
    found = findings("mine", entry_of(path))
    assert failed(found)["imports"].startswith(note)
    assert {finding.answer for finding in [*found.values()][1:]} == {"not applicable"}


def test_an_argument_of_another_model_family_does_not_end_the_command(capsys):
    entries = {
        "theirs": entry_of("Plain", args={"rows": "$model.kv_heads"}),
        "mine": entry_of("Plain", sharded=False),
    }
    assert not check(entries, [])
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("theirs: imports fails: optimizers.theirs.args.rows is '$model.kv_h")
    assert "checked mine" in said


def test_the_tables_show_measured_values_and_what_is_not_applicable(capsys):
    entries = {"plain": entry_of("Plain"), "leaves": entry_of(f"{others.__name__}.LeavesInItsStep")}
    assert check(entries, ["plain"])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "|" in line]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:4]] for row in rows}
    assert cells["modes"] == ["not applicable", "it has no methods train and eval"]
    assert cells["state"] == ["yes", "4.00 bytes"]
    assert not check(entries, [])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "|" in line]
    cells = {
        row[1].strip(): dict(zip(NAMES, map(str.strip, row[2:]), strict=False)) for row in rows
    }
    assert cells["plain"]["state"] == "4.00 bytes"
    assert cells["plain"]["nan"] == "100% of weights NaN"
    assert (cells["leaves"]["state"], cells["leaves"]["nan"]) == ("no", "no")
    assert cells["leaves"]["modes"] == "–"


def test_known_faults_are_accepted_but_not_others_nor_mended_ones(capsys):
    entries = {
        "known": entry_of("ChangesGradients", sharded=False, known_no={"gradients": "it halves"}),
        "unknown": entry_of("ChangesGradients", sharded=False),
        "mended": entry_of("Plain", sharded=False, known_no={"gradients": "old", "speed": "x"}),
    }
    assert check(entries, ["known"])
    assert re.search(r"\| gradients +\| known no +\| it halves", capsys.readouterr().out)
    assert not check(entries, [])
    said = capsys.readouterr().out.splitlines()
    assert "- known, gradients: it halves" in said
    assert said[-3].startswith("unknown: gradients fails: a step changes them")
    assert said[-2] == ("mended: known_no.gradients says 'old', but the check passes: remove it")
    assert said[-1].startswith("mended: known_no has 'speed', but it must be one of imports, ")


def test_what_is_not_installed_is_left_out_unless_it_is_named(capsys):
    entries = {"gone": entry_of("no_such_library.Optimizer", extra="field")}
    assert check(entries, [])
    assert "gone needs the extra field: pip install" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"optimizers.gone needs the extra field: .* EXTRA=field"):
        check(entries, ["gone"])
    with pytest.raises(ConfigError, match="--optimizer has 'lyon', but it must be one of gone"):
        check(entries, ["lyon"])


def test_the_command_ends_with_an_exit_code(tmp_path, text_file):
    values = profile_values(text_file)
    values["optimizers"] = {
        "mine": {"label": "x", "class": f"{faults.__name__}.ChangesGradients", "source": "a test"}
    }
    profile = tmp_path / "mine.yaml"
    profile.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "experiments", "check", "--profile", str(profile)]
    done = subprocess.run(
        [*command, "--optimizer", "mine"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert "mine: gradients fails: a step changes them" in done.stdout
