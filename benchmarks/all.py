"""Every benchmark, one after the other: tables on the screen, figures in a folder, a file each.

    python benchmarks/all.py                                # make bench; hours on two cores, in order of interest
    python benchmarks/all.py --quick                        # small sizes, minutes: whether everything runs
    python benchmarks/all.py --only train_step --out folder

The same command measures what a GPU is good for where there is one. jax, flax, optax, jaxtyping, numpy and torch are
enough there; a benchmark that needs more than is installed fails, and the others go on.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch  # not jax, which would take the GPU's memory from the benchmarks

HERE = Path(__file__).parent
PRECISIONS = ["--precision", "highest", "default", "bf16"]


def commands(quick: bool, gpu: bool) -> dict[str, list[str]]:
    """Name of the results, script and its arguments; those without --json print JSON lines of their own."""
    small = ["--freq", "256", "--rounds", "2"]
    every = {
        "train_step": ["train_step.py", *(["--batch", "4", *small] if quick else PRECISIONS if gpu else [])],
        "epoch": ["epoch.py", *(["--quick", *small] if quick else PRECISIONS if gpu else [])],
        "amass": ["epoch.py", "--amass", *(["--quick", *small] if quick else PRECISIONS)],
        "inference": ["inference.py", *(["--meshes", "70", "--vertices", "500", *small] if quick else [])],
        "startup": ["startup.py", *(["--freq", "256", "--rounds", "1"] if quick else [])],
        "growth": ["growth.py", *(["--quick", "--rounds", "2"] if quick else [])],
        "eigenbasis": ["eigenbasis.py", *(["--cell", "12272", "64"] if quick else [])],
        "build_dataset": ["build_dataset.py", *(["--modes", "64", "--subjects", "15"] if quick else [])],
    }
    if quick:
        every["build_dataset"] += ["--sequences", "2", "--frames", "300"]
    if not gpu:
        del every["amass"]
    return every


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(commands(False, True))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # a checkout will do
    environment, failed = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, []
    for name, (script, *arguments) in commands(options.quick, torch.cuda.is_available()).items():
        if name not in options.only:
            continue
        print(f"\n{name}: {script} {' '.join(arguments)}", flush=True)
        command = [sys.executable, str(HERE / script), *arguments]
        if name not in ("eigenbasis", "build_dataset"):
            done = subprocess.run([*command, "--json", str(options.out / f"{name}.json")], env=environment)
        else:
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
            print(done.stdout, end="")
            (options.out / f"{name}.jsonl").write_text(done.stdout)
        failed += [name] * (done.returncode != 0)
    print(f"\nfigures in {options.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
