"""A result records this project's commit, even inside another repository or a git hook."""

import os
import subprocess

import pytest

from experiments.runs import provenance as machine


def git(folder, *arguments):
    """Run git without the user's settings; return its output."""
    command = ["git", "-c", "user.name=x", "-c", "user.email=x", "-c", "protocol.file.allow=always"]
    done = subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, encoding="utf-8", check=True
    )
    return done.stdout.strip()


def repository(folder):
    """Make a repository with one commit; return the folder and the commit."""
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "code.py").touch()
    git(folder, "add", "code.py")
    git(folder, "commit", "--quiet", "--message", folder.name)
    return folder, git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder, commit = repository(tmp_path / "a project, é")
    monkeypatch.setattr(machine, "_ROOT", folder)
    return folder, commit


def recorded():
    found = machine.provenance()
    return found["commit"], found["dirty"]


def test_a_checkout_is_named_by_its_commit_and_whether_it_was_changed(project):
    folder, commit = project
    assert recorded() == (commit, False)
    (folder / "code.py").write_text("changed", encoding="utf-8")
    assert recorded() == (commit, True)


def test_an_untracked_file_counts_whatever_the_users_settings(project):
    folder, commit = project
    git(folder, "config", "status.showUntrackedFiles", "no")
    (folder / "new.py").touch()
    assert recorded() == (commit, True)


@pytest.mark.parametrize("is_tracked", [False, True])
def test_an_archive_inside_another_repository_has_no_commit(tmp_path, monkeypatch, is_tracked):
    other, _ = repository(tmp_path / "other")
    unpacked = other / "unpacked"
    unpacked.mkdir()
    (unpacked / "code.py").touch()
    if is_tracked:
        git(other, "add", ".")
        git(other, "commit", "--quiet", "--message", "copied")
    monkeypatch.setattr(machine, "_ROOT", unpacked)
    assert recorded() == (None, None)


@pytest.mark.parametrize(
    "variables", [["GIT_DIR"], ["GIT_DIR", "GIT_WORK_TREE"], ["GIT_INDEX_FILE"]]
)
def test_a_git_hook_of_another_repository_does_not_lend_its_commit(
    project, tmp_path, monkeypatch, variables
):
    other, _ = repository(tmp_path / "other")
    values = {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / ".git" / "none",
    }
    for name in variables:
        monkeypatch.setenv(name, str(values[name]))
    assert recorded() == (project[1], False)


def test_an_archive_has_no_commit_in_a_git_hook_either(tmp_path, monkeypatch):
    other, _ = repository(tmp_path / "other")
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(machine, "_ROOT", tmp_path / "unpacked")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "unpacked"))
    assert recorded() == (None, None)


def test_worktrees_submodules_and_links_are_checkouts(project, tmp_path, monkeypatch):
    folder, commit = project
    git(folder, "worktree", "add", "--quiet", tmp_path / "worktree")
    other, _ = repository(tmp_path / "other")
    git(other, "submodule", "--quiet", "add", folder, "submodule")
    (tmp_path / "link").symlink_to(folder)
    for path in (tmp_path / "worktree", other / "submodule", tmp_path / "link"):
        monkeypatch.setattr(machine, "_ROOT", path)
        assert recorded() == (commit, False), path


def test_the_commit_is_unknown_without_git_or_a_first_commit(project, tmp_path, monkeypatch):
    (tmp_path / "fresh").mkdir()
    git(tmp_path / "fresh", "init", "--quiet")
    monkeypatch.setattr(machine, "_ROOT", tmp_path / "fresh")
    assert recorded() == (None, None)
    monkeypatch.setattr(machine, "_ROOT", project[0])
    monkeypatch.setenv("PATH", os.devnull)
    assert recorded() == (None, None)
