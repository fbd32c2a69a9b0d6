"""Measure all that matters on a GPU with one command, most important first: about 9 minutes, and 17 at the very most.

    python benchmarks/gpu.py                    # results in benchmarks/results/CARD-DATE: table.md and a file a part
    python benchmarks/gpu.py --only step16 demo # some parts
    python benchmarks/gpu.py --quick --out /tmp/x   # tiny sizes, any device: checks that everything runs

Each part is a process of its own with a limit of time. A part that fails, or is stopped at its limit, says so in the
table, and the others go on. The table is written after every part. What PyTorch is compared in needs torch; the golden
tests need pytest and a checkout. All else needs the package alone.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
Rows = list[tuple[str, str]]


class Part(NamedTuple):
    """A command with a limit in seconds; `{json}` in its arguments is the file for its figures."""

    about: str
    seconds: int
    command: list[str]
    quick: list[str]
    """The arguments that replace those of `command` after the script with --quick."""
    rows: Callable[[Any], Rows]
    """What the table says of the figures: names and values."""


def _ms(figures: dict, name: str) -> str:
    return f"{figures[name]:.3g} ms" if figures.get(name) else "not measured"


def _step(figures: dict) -> Rows:
    found = []
    for cell in figures.get("cells", [figures]):
        about = f"step, {cell['freq']:,} modes, batch {cell['batch']:,}, {cell['precision']}"
        found.append((about, f"{_ms(cell, 'ours_ms')}, {100 * cell['roofline_fraction']:.0f} % of the roofline"))
        for name in ("torch_eager", "torch_compile", "torch_graphs"):
            if f"{name}_ms" in cell:
                ratio = cell[f"ratio_{name}"]
                times = f", {ratio:.2g} times ours" if ratio else f": {cell.get(name)}"
                found.append((f"{about}: {name.replace('_', ' ')}", _ms(cell, f"{name}_ms") + times))
    return found


def _amass(figures: dict) -> Rows:
    return [
        (
            f"epoch of {cell['meshes']:,} meshes, {cell['freq']:,} modes, batch {cell['batch']:,}",
            f"{cell['epoch_s']:.3g} s (the first, with compiling, {cell['first_s']:.3g} s), "
            f"{100 * cell['roofline_fraction']:.0f} % of the roofline",
        )
        for cell in figures["amass"]
    ]


def _named(figures: dict) -> Rows:
    """Figures that are text already."""
    return list(figures["rows"].items())


def parts() -> dict[str, Part]:
    """The parts by name, most important first."""
    one = ["--rounds", "1", "--freq", "256", "--json", "{json}"]
    own = ["gpu_parts.py", "--json", "{json}", "--part"]
    step = ["train_step.py", "--json", "{json}", "--freq", "4096"]
    golden = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/pytorch/test_golden.py", "tests/network"]
    few = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/network/test_primitives.py", "-k", "pooling"]
    return {
        "device": Part("devices", 90, [*own, "device"], [*own, "device", "--quick"], _named),
        "step16": Part(
            "the step of 16 meshes",
            120,
            [*step, "--batch", "16", "--rounds", "5"],
            ["train_step.py", "--batch", "4", "--eager", *one],
            _step,
        ),
        "amass": Part(
            "an epoch of AMASS's size",
            120,
            ["epoch.py", "--amass", "--rounds", "2", "--json", "{json}"],
            ["epoch.py", "--amass", "--quick", *one],
            _amass,
        ),
        "demo": Part("the demo", 150, [*own, "demo"], [*own, "demo", "--quick"], _named),
        "golden": Part("the golden tests", 150, golden, few, _named),
        "step1024": Part(
            "the step of 1,024 meshes",
            120,
            [*step, "--batch", "1024", "--precision", "default", "bf16", "--rounds", "4", "--eager"],
            ["train_step.py", "--batch", "8", "--precision", "default", "bf16", "--eager", *one],
            _step,
        ),
        "made_of": Part("what a step is made of", 60, [*own, "made_of"], [*own, "made_of", "--quick"], _named),
        "highest": Part(
            "the step in full float32",
            60,
            [*step, "--batch", "16", "--precision", "highest", "--rounds", "3", "--eager"],
            ["train_step.py", "--batch", "4", "--precision", "highest", "--eager", *one],
            _step,
        ),
        "residual": Part("the residual network", 60, [*own, "residual"], [*own, "residual", "--quick"], _named),
        "codec": Part("encoding and decoding", 60, [*own, "codec"], [*own, "codec", "--quick"], _named),
        "eigenbasis": Part("dense eigenmodes", 60, [*own, "eigenbasis"], [*own, "eigenbasis", "--quick"], _named),
        "posing": Part("posing a body", 45, [*own, "posing"], [*own, "posing", "--quick"], _named),
    }


def run(name: str, part: Part, arguments: list[str], out: Path, seconds: float) -> tuple[Any, str]:
    """Run a part; return its figures, None where it has none, and why, or an empty text."""
    figures, log = out / f"{name}.json", out / f"{name}.log"
    script = arguments if arguments[0].startswith("-") else [str(HERE / arguments[0]), *arguments[1:]]
    command = [sys.executable, *(text.replace("{json}", str(figures)) for text in script)]
    # the checkout comes first, so that it need not be installed
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if name == "golden":
        environment.setdefault("XLA_FLAGS", "")  # the tests would ask for code that compiles fast and runs slowly
    figures.unlink(missing_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=HERE.parent, env=environment, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, KeyboardInterrupt):
                raise
            return None, f"stopped after {seconds:.0f} s"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = re.sub(r"[|\s]+", " ", lines[-1])[:160] if lines else ""
    if name == "golden" and code == 0:
        return {"rows": {part.about: last}}, ""
    if code or not figures.exists():
        return None, f"failed: {last or f'exit code {code}'}"
    return json.loads(figures.read_text()), ""


def markdown(title: str, rows: Rows) -> str:
    """A table of two columns."""
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]) + "\n"


def card() -> str:
    """The name of the device, without spaces, as JAX in another process gives it."""
    ask = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
    lines = subprocess.run(ask, capture_output=True, text=True).stdout.split("\n")
    return re.sub(r"\W+", "-", lines[-2]).lower() if len(lines) > 1 else "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = parts()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(every), default=list(every))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    device, date = card(), time.strftime("%Y-%m-%d")
    out = (options.out or HERE / "results" / f"{device}-{date}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    title = f"{device}, {date}" + (", tiny sizes: no measurement" if options.quick else "")
    rows, failed = [], []
    for name, part in every.items():
        if name not in options.only:
            continue
        print(f"{name}: {part.about}, at most {part.seconds} s", flush=True)
        arguments = part.quick if options.quick else part.command
        # without a GPU nothing is fast: the limit is for cards
        figures, reason = run(name, part, arguments, out, part.seconds * (10 if options.quick else 1))
        try:
            added = part.rows(figures) if figures is not None else [(part.about, reason)]
        except (KeyError, TypeError, ValueError) as error:  # figures of another kind than expected stay in their file
            added, reason = [(part.about, f"see {name}.json")], f"no row: {error!r}"
        failed += [name] * bool(reason)
        rows += added
        (out / "table.md").write_text(markdown(title, rows))
        for about, value in added:
            print(f"  {about}: {value}", flush=True)
    print(f"\n{out / 'table.md'}" + (f"; without figures: {', '.join(failed)}" if failed else ""))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
