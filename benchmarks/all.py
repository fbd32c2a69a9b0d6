"""Run all benchmarks in turn: tables on the screen, one file of figures per benchmark in a folder.

    python benchmarks/all.py                                # make bench; takes hours on two cores
    python benchmarks/all.py --quick                        # small sizes, minutes: checks that everything runs
    python benchmarks/all.py --only train_step --out folder

The most interesting benchmarks come first. On a machine with a GPU the same command also measures what suits a GPU;
jax, flax, optax, jaxtyping, numpy and torch are enough there. A benchmark that misses a package fails, and the others
go on.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch  # not jax, which would reserve GPU memory that the benchmarks need

HERE = Path(__file__).parent
PRECISIONS = ["--precision", "highest", "default", "bf16"]


def commands(quick: bool, gpu: bool) -> dict[str, list[str]]:
    """The script and the arguments of each benchmark, by the name of its results."""
    small = ["--freq", "256", "--rounds", "2"]
    every = {
        "train_step": ["train_step.py", *(["--batch", "4", *small] if quick else PRECISIONS if gpu else [])],
        "epoch": ["epoch.py", *(["--quick", *small] if quick else PRECISIONS if gpu else [])],
        "amass": ["epoch.py", "--amass", *(["--quick", *small] if quick else PRECISIONS)],
        "inference": ["inference.py", *(["--meshes", "70", "--vertices", "500", *small] if quick else [])],
        "products": ["products.py", *(["--freq", "256", "--batch", "4"] if quick else [])],
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
    # the checkout comes first, so that it need not be installed
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment, failed = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, []
    for name, (script, *arguments) in commands(options.quick, torch.cuda.is_available()).items():
        if name not in options.only:
            continue
        print(f"\n{name}: {script} {' '.join(arguments)}", flush=True)
        command = [sys.executable, str(HERE / script), *arguments]
        if name not in ("eigenbasis", "build_dataset"):  # these print JSON lines and have no --json
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
