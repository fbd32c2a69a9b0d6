"""The command line starts again for huge pages only where that changes something, and runs as it was called."""

import contextlib
import os
import subprocess
import sys

import pytest
from helpers import ROOT

from spectral_jax.files import huge_pages

ON_REQUEST = "always [madvise] never\n"


class Started(Exception):
    """Instead of a new program."""


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Ask for huge pages with a setting of the system and tunables of the C library; returns what is started."""

    def ask(setting, tunables=""):
        started = []

        def start(program, arguments):
            started.append((program, arguments, os.environ["GLIBC_TUNABLES"]))
            raise Started  # as the real one does not return

        file = tmp_path / "enabled"
        if setting is not None:
            file.write_text(setting)
        monkeypatch.setattr(huge_pages, "SETTING", file)
        monkeypatch.setattr(huge_pages.os, "execv", start)
        monkeypatch.setattr(sys, "orig_argv", ["python3", "-X", "utf8", "-m", "spectral_jax", "eval", "runs/a b"])
        monkeypatch.setenv("GLIBC_TUNABLES", tunables)
        with contextlib.suppress(Started):
            huge_pages.ask_for()
        return started

    return ask


@pytest.mark.parametrize(
    ("tunables", "after"),
    [("", "glibc.malloc.hugetlb=1"), ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1")],
)
def test_the_program_starts_again_with_the_same_arguments(ask, tunables, after):
    arguments = [sys.executable, "-X", "utf8", "-m", "spectral_jax", "eval", "runs/a b"]
    assert ask(ON_REQUEST, tunables) == [(sys.executable, arguments, after)]


@pytest.mark.parametrize("setting", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_nothing_starts_where_it_changes_nothing(ask, setting):
    assert ask(setting) == []


@pytest.mark.parametrize("tunables", ["glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=1"])
def test_who_decides_in_the_environment_is_left_alone(ask, tunables):
    assert ask(ON_REQUEST, tunables) == []


@pytest.mark.parametrize("command", [["-m", "spectral_jax", "eval"], ["eval.py"]])
def test_exit_code_and_arguments_are_those_of_the_command(command, tmp_path):
    """However the system gives huge pages."""
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "no run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"},
    )
    assert done.returncode == 2
    assert "no run" in done.stderr
