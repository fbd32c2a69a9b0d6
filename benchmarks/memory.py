"""Measure time and peak memory of the commands on a large dataset, each in a process of its own.

    python benchmarks/memory.py /tmp/big                                       # makes it first: AMASS's size, 7.5 GB
    python benchmarks/memory.py /tmp/big --meshes 2000 --test-meshes 1000      # a smaller one
    python benchmarks/memory.py /tmp/big --only stream eval report --json memory.json

The peak is the kernel's (`ru_maxrss`). It counts pages of files that are mapped, which the kernel takes back when
memory is short. The peak of memory that is the process's own is sampled, on Linux. Meshes trained in a second are those
of the last epoch, without start and validation.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from machine import announce, save, table

HERE = Path(__file__).parent
PLACEMENTS = ("auto", "device", "host", "stream")
SAMPLE_SECONDS = 0.05
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss


class Used(NamedTuple):
    """What a process used; its own memory is None where it cannot be sampled."""

    seconds: float
    peak_gb: float
    own_gb: float | None
    code: int


def commands(data: Path, folder: Path, batch_size: int) -> dict[str, list[str]]:
    """Arguments of each command by its name; those after training use the first run that there is."""
    train = ["train", "--data", str(data), "--epochs", "1", "--batch-size", str(batch_size), "--validate-every", "1"]
    found = {place: [*train, "--run", str(folder / place), "--placement", place] for place in PLACEMENTS}
    found["residual"] = ["train", "--data", str(data), "--network", "residual", "--epochs", "1"]
    found["residual"] += ["--run", str(folder / "residual")]
    run, latents = str(folder / "run"), str(folder / "latents.npz")
    sweep = ["sweep", "--data", str(data), "--out", str(folder / "sweep"), "--epochs", "1", "--latent-sizes", "16"]
    return found | {
        "eval": ["eval", run],
        "report": ["report", run],
        "encode": ["encode", str(data), latents, "--run", run, "--split", "train"],
        "info": ["dataset", "info", str(data)],
        "sweep": sweep,
    }


def measure(arguments: list[str], log: Path) -> Used:
    """Run spectral-jax to its end; its output goes to a file."""
    start, own = time.perf_counter(), None
    with log.open("wb") as out:
        command = [sys.executable, "-m", "spectral_jax", *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            sample = own_bytes(process.pid)
            own = own if sample is None else max(own or 0, sample)
            time.sleep(SAMPLE_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * RSS_UNIT / 1e9
    return Used(time.perf_counter() - start, peak, None if own is None else own / 1e9, process.returncode)


def own_bytes(pid: int) -> int | None:
    """Memory of a process without pages of files; None where the kernel does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) * 1024
    except (OSError, ValueError, IndexError):
        return None


def meshes_per_second(log: Path) -> float | None:
    """The speed of the last epoch in the log of a run, without validation; None where nothing was trained."""
    lines = log.read_text().splitlines() if log.is_file() else []
    return json.loads(lines[-1]).get("meshes_per_second") if lines else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(commands(Path(), Path(), 0))
    parser.add_argument("data", type=Path, help="the dataset; made by big_dataset.py if it does not exist")
    for option in ("meshes", "test-meshes", "vertices", "modes"):
        parser.add_argument(f"--{option}", type=int, help="of a dataset that is made")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.data.exists():
        sizes = ("meshes", "test_meshes", "vertices", "modes")
        given = {name: getattr(options, name) for name in sizes if getattr(options, name) is not None}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        subprocess.run([sys.executable, HERE / "big_dataset.py", options.data, *arguments], check=True)
    announce()
    columns = ("command", "seconds", "peak GB", "own GB", "exit code", "trained/s")
    row = table(f"{options.data}, batch {options.batch_size}", *columns)
    found, failed = {}, False
    with tempfile.TemporaryDirectory() as folder:
        runs, every = Path(folder), commands(options.data.resolve(), Path(folder), options.batch_size)
        needs_run = {"eval", "report", "encode"} & set(options.only)
        wanted = [name for name in every if name in options.only]
        if needs_run and not set(wanted) & set(PLACEMENTS):
            measure(every["stream"], runs / "log")
        for name in wanted:
            trained = next((runs / place for place in PLACEMENTS if (runs / place / "last").exists()), None)
            if name in needs_run and trained and not (runs / "run").exists():
                (runs / "run").symlink_to(trained)
            used = measure(every[name], runs / "log")
            speed = meshes_per_second(runs / name / "log.jsonl")
            row(name, used.seconds, used.peak_gb, used.own_gb, used.code, speed)
            if used.code:
                failed = True
                print((runs / "log").read_text(errors="replace")[-1000:])
            command = " ".join(["spectral-jax", *every[name]]).replace(folder, "RUNS")
            found[name] = used._asdict() | {"command": command, "meshes_per_second": speed}
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 1e9
    print(f"a child's peak is at least this process's, {baseline:.2g} GB")
    save(options.json, {"batch_size": options.batch_size, "commands": found})
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
