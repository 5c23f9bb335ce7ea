"""Every file agrees on the versions, and the library depends on torch alone."""

import re
import subprocess
import sys
from pathlib import Path

import tomllib
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lock(file="requirements.lock"):
    """Return the pinned version of each package."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pins = [line.split(";")[0].split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def test_the_lock_pins_every_dependency_within_its_bounds():
    pins = lock()
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["experiments"], *extras["test"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text


def test_the_fields_lock_pins_what_it_adds_within_its_bounds():
    pins = lock("requirements-field.lock")
    requirements = [Requirement(text) for text in PROJECT["optional-dependencies"]["field"]]
    assert {canonicalize_name(requirement.name) for requirement in requirements} == set(pins)
    for requirement in requirements:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
    assert not set(pins) & set(lock())  # transformers would import torchao if it were installed


def test_the_lock_installs_anywhere():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?:|file:|--|@|\+", text)
    assert lock()["torch"] == "2.13.0"


def test_these_tests_run_under_the_locked_versions():
    from importlib.metadata import version

    for name, pinned in lock().items():
        assert version(name).split("+")[0] == pinned, name


def test_the_conda_environment_is_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert "python=3.11" in environment["dependencies"]
    (by_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert by_pip == ["--requirement requirements.lock", "--editable ."]
    assert environment["name"] == PROJECT["name"]


def test_the_library_needs_nothing_but_torch():
    assert [Requirement(text).name for text in PROJECT["dependencies"]] == ["torch"]
    others = [
        Requirement(text).name.replace("-", "_")
        for text in PROJECT["optional-dependencies"]["experiments"]
    ]
    # torch is imported first, because it imports some of these packages if they are installed.
    code = f"""
import sys, torch
before = set(sys.modules)
import powerstep
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
assert not new & {{*{others!r}, "experiments", "analysis"}}, new
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_version_is_the_distributions():
    import powerstep

    assert powerstep.__version__ == PROJECT["version"]
