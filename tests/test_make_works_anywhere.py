"""`make` works in any folder, with every accepted Python, and deletes no file of the user's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser

ROOT = Path(__file__).parent.parent
ODD = "a b'c$d#e&f(g)é"

# A fake Python, both on PATH and inside the environment. It logs the modules it is asked to run,
# each line in one write, because `make test` runs two of them at once.
PYTHON = f"""#!/bin/sh
case "$1 $2" in
"-m venv") mkdir -p "$3/bin"; touch "$3/bin/pip"; cp "$0" "$3/bin/python" ;;
-m*) line=$(printf '%s|' "$@"); printf '%s\\n' "$line" >>"$CALLS" ;;
*pathlib*) ;;
*) exec '{sys.executable}' "$@" ;;
esac
"""


class Checkout:
    """A copy of the files that make reads, with a fake Python that installs and trains nothing."""

    def __init__(self, path, commands):
        self.path, self.commands = path, commands
        self.calls = commands / "calls"
        shutil.copytree(ROOT / "profiles", path / "profiles")
        for name in ("Makefile", "make_venv.sh", "pyproject.toml"):
            shutil.copy(ROOT / name, path)
        for lock in ROOT.glob("*.lock"):
            shutil.copy(lock, path)
        self.add("python3.11")

    def add(self, name, text=PYTHON):
        """Put a command first on PATH."""
        command = self.commands / name
        command.write_text(text, encoding="utf-8")
        command.chmod(0o755)
        return command

    def make(self, *arguments):
        """Run make; return its exit code and what it printed."""
        path = os.pathsep.join([str(self.commands), "/usr/bin", "/bin"])
        done = subprocess.run(
            ["make", *arguments],
            cwd=self.path,
            env={"PATH": path, "CALLS": str(self.calls)},  # without an outer make's variables
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def ran(self):
        """Return the arguments of each module that Python was asked to run, and clear the log."""
        lines = self.calls.read_text(encoding="utf-8").splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return [line.split("|")[:-1] for line in lines]


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / ODD).mkdir()
    (tmp_path / "commands").mkdir()
    return Checkout(tmp_path / ODD, tmp_path / "commands")


@pytest.mark.parametrize("profile", ["smoke", "my own.yaml", "it's $HOME & (é).yaml"])
@pytest.mark.parametrize("target", ["reproduce", "plan"])
def test_a_profile_reaches_snakemake_as_it_was_typed(checkout, target, profile):
    code, output = checkout.make(target, f"PROFILE={profile}")
    assert code == 0, output
    command = ["-m", "snakemake", "--profile", "profiles/default", "--config", f"profile={profile}"]
    assert [call[:6] for call in checkout.ran() if call[1] == "snakemake"] == [command]


def test_rejudging_asks_snakemake_for_the_studies(checkout):
    code, output = checkout.make("rejudge", "PROFILE=smoke")
    assert code == 0, output
    snakemake, rejudge = checkout.ran()[-2:]
    options = get_argument_parser().parse_args(snakemake[2:])
    assert options.config == ["profile=smoke"]
    assert {Path(target).suffix for target in options.targets} == {".csv"}
    assert rejudge == ["-m", "analysis", "rejudge", "results/reference/smoke/runs.csv"]


def test_a_cluster_is_planned_with_what_its_jobs_ask_for(checkout):
    code, output = checkout.make("plan", "PROFILE=my own.yaml", "LAUNCHER=slurm")
    assert code == 0, output
    assert checkout.ran()[-1] == [
        *("-m", "experiments", "jobs", "--profile", "my own.yaml"),
        *("--cluster", "profiles/slurm/cluster.yaml"),
    ]


@pytest.mark.parametrize(
    ("target", "module"),
    [
        ("status", "experiments"),
        ("test", "pytest"),
        ("bench", "experiments"),
        ("bench-analysis", "tests.measure_analysis"),
        ("lint", "snakefmt"),
    ],
)
def test_every_target_works_in_an_odd_path(checkout, target, module):
    (checkout.path / "tests").mkdir()
    (checkout.path / "tests" / "lint_snakefile.py").touch()
    code, output = checkout.make(target)
    assert code == 0, output
    assert module in [call[1] for call in checkout.ran()]
    code, output = checkout.make(target)
    assert code == 0, output
    assert "pip" not in [call[1] for call in checkout.ran()]  # the environment is up to date
    assert checkout.make("clean")[0] == 0
    assert not list(checkout.path.glob(".venv*"))


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["reproduce", "EXTRA=field"], "snakemake"),
        (["plan", "EXTRA=field"], "snakemake"),
        (["status", "EXTRA=field"], "experiments"),
        (["test-field"], "pytest"),
        (["bench"], "experiments"),
    ],
)
def test_the_field_has_an_environment_of_its_own(checkout, arguments, module):
    code, output = checkout.make(*arguments)
    assert code == 0, output
    assert [path.name for path in checkout.path.glob(".venv*")] == [".venv-field"]
    ran = checkout.ran()
    (installed,) = [call for call in ran if call[1] == "pip"]
    assert {"requirements.lock", "requirements-field.lock"} < {*installed}
    assert module in [call[1] for call in ran]


def test_an_unknown_extra_is_told_in_one_sentence(checkout):
    code, output = checkout.make("reproduce", "EXTRA=gpu")
    assert code != 0
    assert "EXTRA is 'gpu', but it must be field" in output
    assert checkout.ran() == []


def finish(checkout, name):
    """Write the results of a finished profile."""
    folder = checkout.path / "results" / name
    for file in ("report.html", "claims.csv", "claims.md", "runs.csv", "tables/t", "figures/f"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file, encoding="utf-8")
    (folder / "plans").mkdir()
    for age, plan in enumerate(["new.yaml", "old.yaml"]):
        (folder / "plans" / plan).write_text(plan, encoding="utf-8")
        os.utime(folder / "plans" / plan, (1e9 - age, 1e9 - age))


def all_files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("profile", ["a b", "../elsewhere/a b.yaml"])
def test_a_reference_is_kept_and_nothing_else_is_touched(checkout, profile):
    finish(checkout, "a b")
    for neighbour in ("b/precious", "results/reference/a/precious", "results/reference/a b/stale"):
        (checkout.path / neighbour).parent.mkdir(parents=True)
        (checkout.path / neighbour).touch()
    before = all_files(checkout.path)
    code, output = checkout.make("reference", f"PROFILE={profile}")
    assert code == 0, output
    kept = checkout.path / "results" / "reference" / "a b"
    names = {str(path.relative_to(kept)) for path in all_files(kept)}
    assert names == {
        *("claims.csv", "claims.md", "runs.csv", "tables/t", "figures/f", "settings.yaml")
    }
    assert (kept / "settings.yaml").read_text(encoding="utf-8") == "new.yaml"
    after = all_files(checkout.path)
    assert {path: after.get(path) for path in before if kept not in path.parents} == {
        path: text for path, text in before.items() if kept not in path.parents
    }


@pytest.mark.parametrize(
    "profile", ["nonesuch", "", ".", "..", "../x", "../../x", "reference", "a b"]
)
def test_a_reference_of_no_results_removes_nothing(checkout, profile):
    finish(checkout, "reference/nonesuch")
    for name in ("claims.csv", "b/precious", "results/reference/a/precious"):
        (checkout.path / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout.path / name).touch()
    before = all_files(checkout.path)
    code, output = checkout.make("reference", f"PROFILE={profile}")
    assert code != 0
    assert f"error: PROFILE is '{profile}', but " in output
    assert all_files(checkout.path) == before


SHIM = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"
WITHOUT_ENSUREPIP = f"""#!/bin/sh
exec '{sys.executable}' -c '
import sys
sys.modules["ensurepip"] = None
sys.argv[0] = "-c"
exec(sys.argv[2])
' "$@"
"""


def test_a_shim_of_a_python_that_is_not_there_is_passed_over(checkout):
    checkout.add("python3.11", SHIM)
    checkout.add("python3.12")
    code, output = checkout.make("venv")
    assert code == 0, output
    assert "creating .venv with Python " in output
    assert ", python3.12" in output
    assert "not found" not in output


def test_a_python_that_makes_no_environments_is_passed_over_or_told(checkout):
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        checkout.add(name, WITHOUT_ENSUREPIP)
    code, output = checkout.make("venv")
    assert code != 0
    assert "error: python3.11 has no module ensurepip" in output
    assert "python3.11-venv" in output
    checkout.add("python3.13")
    code, output = checkout.make("venv")
    assert code == 0, output
    assert ", python3.13" in output


def test_a_machine_without_an_accepted_python_is_told_so(checkout):
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        checkout.add(name, SHIM)
    code, output = checkout.make("venv")
    assert code != 0
    assert "error: there is no Python 3.11, 3.12 or 3.13 on PATH: install one or name it" in output


@pytest.mark.parametrize("python", ["nonesuch", "old", "/no such/python"])
def test_a_named_python_is_held_to_the_accepted_versions(checkout, python):
    checkout.add("old", PYTHON.replace("exec '", "exec false '"))
    code, output = checkout.make("venv", f"PYTHON={python}")
    assert code != 0
    assert f"error: PYTHON is {python}, but it must run Python 3.11, 3.12 or 3.13" in output
    assert not (checkout.path / ".venv").exists()


def test_another_python_makes_the_environment_anew_and_no_python_keeps_it(checkout):
    assert checkout.make("venv")[0] == 0
    says_other = PYTHON.replace("*pathlib*)", '*"print(sys.version)") echo other ;;\n*pathlib*)')
    other = checkout.add("other", says_other)
    code, output = checkout.make("venv", f"PYTHON={other}")
    assert code == 0, output
    assert f"{other}: PYTHON is {other}" in output
    code, output = checkout.make("venv")
    assert (code, output) == (0, "")


def test_a_moved_checkout_and_a_changed_lock_are_noticed(checkout):
    assert checkout.make("venv")[0] == 0
    checkout.ran()
    (checkout.path / "requirements.lock").write_text("torch==2.13.1\n", encoding="utf-8")
    assert checkout.make("venv") == (0, "")
    assert "pip" in [call[1] for call in checkout.ran()]
    checkout.path = checkout.path.rename(checkout.path.parent / "moved")
    code, output = checkout.make("venv")
    assert code == 0
    assert "it was created in " in output
    assert checkout.make("venv") == (0, "")


def test_an_installation_that_was_cut_short_is_completed(checkout):
    failing = PYTHON.replace("-m*) ", "-m*) exit 1;; none) ")
    checkout.add("python3.11", failing)
    assert checkout.make("venv")[0] != 0
    checkout.add("python3.11")
    shutil.copy(checkout.commands / "python3.11", checkout.path / ".venv" / "bin" / "python")
    assert checkout.make("venv")[0] == 0
    assert "pip" in [call[1] for call in checkout.ran()]
    assert checkout.make("venv") == (0, "")


def test_an_environment_of_the_users_own_is_not_removed(checkout):
    theirs = checkout.path / ".venv" / "precious"
    theirs.parent.mkdir()
    theirs.touch()
    code, output = checkout.make("venv")
    assert code != 0
    assert "error: .venv was not created by make_venv.sh" in output
    assert theirs.exists()


def test_a_path_with_a_colon_is_told_in_one_sentence(checkout):
    checkout.path = checkout.path.rename(checkout.path.parent / "a:b")
    code, output = checkout.make("venv")
    assert code != 0
    assert "a:b, has a colon, but virtual environments do not support that" in output
