"""Profiles of training: a trace of some dispatches, and the slowest operations in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from spectral_jax.training.loop import TrainingUpdate

FOLDER = "profile"
WARM_UP = 2  # dispatches before the trace: they compile
# Names of operations, such as dot_general.40; others are functions of the runtime. Loops contain the other operations.
OPERATION = re.compile(r"(?!while|call\b)[a-z][a-z0-9_-]*(\.\d+)*")


class Operation(NamedTuple):
    """An operation of a compiled program: how often it ran and for how long, over all devices."""

    name: str
    calls: int
    milliseconds: float


def record(
    updates: Iterator[TrainingUpdate], folder: Path, num_steps: int, epoch_steps: int
) -> Iterator[TrainingUpdate]:
    """Pass updates on, and trace whole dispatches after the first two until they have taken `num_steps` steps."""
    end = None  # the step at which the trace ends, while there is one
    try:
        for number, update in enumerate(updates, 1):
            step = update.position.epoch * epoch_steps + update.position.step
            if end is not None and step >= end:
                jax.profiler.stop_trace()
                end = None
            yield update
            if number == WARM_UP:
                jax.profiler.start_trace(folder)
                end = step + num_steps
    finally:
        if end is not None:
            jax.profiler.stop_trace()


def slowest(folder: Path) -> list[Operation]:
    """The operations of the newest trace in a folder, the slowest first; empty if there is none."""
    traces = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        return []
    planes = list(jax.profiler.ProfileData.from_file(str(traces[-1])).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    # On a GPU, what runs are the events of its streams; on a CPU, some of those of XLA's threads.
    lines = [line for plane in devices for line in plane.lines if line.name.startswith(("Stream", "XLA Ops"))]
    lines = lines or [line for plane in planes for line in plane.lines if "XLA" in line.name]
    calls, nanoseconds = Counter(), Counter()
    for line in lines:
        for event in line.events:
            if event.duration_ns and (devices or OPERATION.fullmatch(event.name)):
                calls[event.name] += 1
                nanoseconds[event.name] += event.duration_ns
    return [Operation(name, calls[name], spent / 1e6) for name, spent in nanoseconds.most_common()]
