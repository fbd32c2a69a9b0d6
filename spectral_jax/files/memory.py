"""How much memory this process may still take: what the machine has free, within the limits of its control groups."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
# Files of a group by version: its limit, what it takes, and of that the file pages that the kernel gives back.
VERSIONS = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_bytes() -> tuple[int, str]:
    """Bytes that are free, and what limits them: "this machine" or "its control group" (container, batch system)."""
    free, limit = psutil.virtual_memory().available, "this machine"
    for folder, version in _own_groups():
        room = _room(folder, *VERSIONS[version])
        if room is not None and room < free:
            free, limit = room, "its control group"
    return free, limit


def shortage(error: BaseException) -> str | None:
    """What an error could not allocate and what is free, if it is that memory ran out; else None.

    NumPy raises MemoryError, and XLA a RuntimeError for the memory of any device.
    """
    if isinstance(error, MemoryError):
        wanted = str(error) or "no more"
    elif "RESOURCE_EXHAUSTED" in str(error):
        size = re.search(r"(\d+) ?bytes", str(error))
        wanted = f"unable to allocate {int(size[1]) / 1e9:,.3g} GB on the device" if size else "no more on the device"
    else:
        return None
    free, limit = free_bytes()
    return f"out of memory: {wanted}; {free / 1e9:.3g} GB of host memory are free within {limit}"


def _own_groups() -> Iterator[tuple[Path, int]]:
    """The folders of the groups that this process is in, the innermost first, and their version."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except (OSError, ValueError):  # no Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top, version = (GROUPS / "memory", 1) if controllers else (GROUPS, 2)
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents):  # in a container its own group may be at the top
            yield top / part, version


def _room(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """What the limit of a group leaves; None without a limit."""
    try:
        most, used = (int((folder / name).read_text()) for name in (limit, usage))  # without a limit: "max"
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(stat.get(reclaimable, 0)))
    except (OSError, ValueError):
        return None
