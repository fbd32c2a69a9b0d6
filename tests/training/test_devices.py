"""What training asks of XLA."""

import importlib.util
import os

import pytest

from spectral_jax.training import devices


@pytest.fixture
def with_gpu_plugin(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "jax_cuda13_plugin" or None)
    monkeypatch.setattr(devices, "xla_knows", lambda flag: True)
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")


def test_loops_become_graphs_beside_a_gpu(with_gpu_plugin):
    devices.use_graphs()
    assert os.environ["XLA_FLAGS"] == f"--xla_a=1 {devices.LOOP_AS_GRAPH}"


def test_the_flags_of_the_user_win(with_gpu_plugin, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_command_buffer=")
    devices.use_graphs()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_enable_command_buffer="


def test_a_flag_that_xla_lacks_is_left_out(with_gpu_plugin, monkeypatch):
    monkeypatch.setattr(devices, "xla_knows", lambda flag: False)
    devices.use_graphs()
    assert os.environ["XLA_FLAGS"] == "--xla_a=1"


def test_a_cpu_asks_nothing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(devices, "xla_knows", lambda flag: pytest.fail("starts a process"))
    monkeypatch.setenv("XLA_FLAGS", "")
    devices.use_graphs()
    assert os.environ["XLA_FLAGS"] == ""
