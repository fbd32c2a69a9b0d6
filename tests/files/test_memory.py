"""What is free is the least of what the machine and the control groups leave."""

import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from spectral_jax.files import memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes control groups, and has 64 GiB free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Free", (), {"available": 64 * GIB}))
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")

    def write(own, **folders):
        (tmp_path / "own").write_text(own)
        for name, files in folders.items():
            folder = tmp_path / "groups" / name.replace("__", "/")
            folder.mkdir(parents=True, exist_ok=True)
            for file, text in files.items():
                (folder / file).write_text(f"{text}\n")

    return write


def group(limit, used=GIB, cached=0):
    return {"memory.max": limit, "memory.current": used, "memory.stat": f"anon 5\ninactive_file {cached}"}


def test_without_groups_it_is_the_machine(machine):
    assert memory.free_bytes() == (64 * GIB, "this machine")
    machine("0::/user/job\n", user__job=group("max"), user=group(100 * GIB))
    assert memory.free_bytes() == (64 * GIB, "this machine")


def test_the_narrowest_group_counts_without_pages_of_files(machine):
    machine("1:name=systemd:/\n0::/user/job\n", user__job=group(8 * GIB, 3 * GIB, 2 * GIB), user=group(20 * GIB))
    assert memory.free_bytes() == (7 * GIB, "its control group")
    machine("0::/user/job\n", user=group(4 * GIB, 5 * GIB))
    assert memory.free_bytes() == (0, "its control group")


def test_a_container_of_version_1_sees_its_group_at_the_top(machine):
    files = {"memory.limit_in_bytes": 6 * GIB, "memory.usage_in_bytes": 2 * GIB, "memory.stat": "total_inactive_file 0"}
    machine("5:cpu,memory:/docker/abc\n3:cpuset:/\n", memory=files)
    assert memory.free_bytes() == (4 * GIB, "its control group")


def test_this_machine_has_some():
    free, _ = memory.free_bytes()
    assert 0 < free <= psutil.virtual_memory().total


def test_what_could_not_be_allocated_and_what_is_free_are_named(machine):
    with pytest.raises(MemoryError) as host:
        np.zeros(2**55)
    with pytest.raises(RuntimeError) as device:
        jnp.zeros(2**50).block_until_ready()
    for error, size in ((host.value, "256. PiB"), (device.value, "4.5e+06 GB")):
        found = memory.shortage(error)
        assert found is not None
        assert size in found
        assert "68.7 GB" in found  # 64 GiB
    assert memory.shortage(RuntimeError("something else")) is None
