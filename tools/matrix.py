"""Run the tests as other machines would: `make test-all` all jobs, `make test-all ARGS='lowest wheel'` some of them.

Environments are kept in the user's cache folder (SPECTRAL_JAX_MATRIX names another) and made where they are missing.
A job that is not possible here says why in one line and is left out; the exit code is 1 when a job fails.
"""

import argparse
import functools
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from platformdirs import user_cache_path

from spectral_jax.training.devices import xla_knows

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("SPECTRAL_JAX_MATRIX") or user_cache_path("spectral_jax") / "matrix")
PYTEST = ("-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
EXTRAS = "view,test"
DEBIAN = "trixie"  # Debian 13 has Python 3.13
DEBIAN_PACKAGES = "python3,python3-venv,make,git,ca-certificates"
# Folders of tests whose results a processor, its vector instructions or a linear algebra library can round otherwise.
NUMERICAL = (
    "basis",
    "bodies",
    "data",
    "geometry",
    "network",
    "paths",
    "pytorch",
    "report",
    "runs",
    "training",
    "viewer",
)


class LeftOut(Exception):
    """Why a job is not possible on this machine."""


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """Run a command with variables added to the environment. Raises CalledProcessError where it fails."""
    print("$", *(f"{name}={value!r}" for name, value in environment.items()), *command, flush=True)
    inherited = {"PYTHONDONTWRITEBYTECODE": "", **os.environ}  # bytecode is kept: dozens of processes start
    subprocess.run(list(map(str, command)), check=True, cwd=cwd, env={**inherited, **environment})


def find_python(version: str) -> Path | None:
    """An interpreter of this version that runs: on PATH, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    on_path = shutil.which(f"python{version}")
    for path in ([Path(on_path)] if on_path else []) + sorted(pyenv.glob(f"{version}.*/bin/python")):
        if subprocess.run([path, "-c", "import venv"], capture_output=True).returncode == 0:  # pyenv's shims may not
            return path
    return None


def environment(name: str, python: str | Path) -> Path:
    """The interpreter of a virtual environment in the cache folder."""
    inside = CACHE / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not inside.exists():
        run(python, "-m", "venv", "--clear", CACHE / name)
    return inside


def describe(python: Path) -> None:
    """Print the versions that a job runs with."""
    code = "import jax, numpy, scipy, platform as p; print('Python', p.python_version(), 'jax', jax.__version__, "
    run(python, "-c", code + "'numpy', numpy.__version__, 'scipy', scipy.__version__)")


def own() -> None:
    """The suite on this Python."""
    run("make", "test")


def on_python(version: str, **variables: str) -> None:
    """The suite on another Python, with the newest of everything that pip finds for it."""
    found = find_python(version)
    if found is None:
        raise LeftOut(f"no Python {version} on PATH or in pyenv")
    python = environment(f"python{version}", found)
    run(python, "-m", "pip", "install", "-q", "--upgrade", "--upgrade-strategy", "eager", "-e", f".[{EXTRAS}]")
    describe(python)
    run(python, *PYTEST, **variables)


def newest() -> None:
    """Python 3.13 and the newest JAX, XLA's flags as a user has them; in a root of Debian 13 if there is no 3.13."""
    if find_python("3.13"):
        on_python("3.13", XLA_FLAGS="")
    else:
        debian(XLA_FLAGS="")


def middle() -> None:
    """Python 3.12 and the newest JAX for it."""
    on_python("3.12")


def debian(**variables: str) -> None:
    """The suite in a bare Debian 13: Python 3.13, and neither X11 nor fonts, a browser or torch."""
    if platform.system() != "Linux" or not shutil.which("debootstrap") or os.geteuid() != 0:
        raise LeftOut("a root of Debian needs Linux, root and debootstrap (apt install debootstrap)")
    root = CACHE / DEBIAN
    if not root.exists():
        partial = root.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        run("debootstrap", "--variant=minbase", f"--include={DEBIAN_PACKAGES}", DEBIAN, partial)
        partial.rename(root)
    for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(name).exists():
            shutil.copyfile(name, root / name[1:])
    if (settings := Path.home() / ".config" / "pip").exists():
        shutil.copytree(settings, root / "suite" / ".config" / "pip", dirs_exist_ok=True)
    copy_checkout(root / "suite" / "checkout")
    # a mount namespace of its own, so that nothing stays mounted whatever happens
    inside = ("unshare", "--mount", "--pid", "--fork", f"--mount-proc={root / 'proc'}", "chroot", str(root))
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        raise LeftOut("no mount namespaces here (unshare --mount --pid)")
    script = f"""export HOME=/suite VENV=/suite/venv; cd $HOME/checkout; make TORCH= $VENV/.installed-test
    $VENV/bin/python -c 'import jax, sys; print("Python", sys.version.split()[0], "jax", jax.__version__)'
    exec $VENV/bin/python {" ".join(PYTEST)}"""
    run(*inside, "bash", "-euc", script, **variables)


def copy_checkout(target: Path) -> None:
    """The files that git tracks, as they are now."""
    shutil.rmtree(target, ignore_errors=True)
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def lowest() -> None:
    """The oldest version of every direct dependency that setup.cfg allows."""
    python = environment("lowest", sys.executable)
    install = (sys.executable, "-m", "uv", "pip", "install", "-q", "--python", python)
    run(*install, "--resolution", "lowest-direct", "-e", f".[{EXTRAS}]")
    describe(python)
    run(python, *PYTEST)


def on_processor(isa: str, openblas: str) -> None:
    """The numerical tests with XLA's widest vector instructions and the kernels of NumPy's and SciPy's OpenBLAS."""
    flags = f"--xla_cpu_max_isa={isa}"
    if not xla_knows(flags):
        raise LeftOut(f"this XLA does not know {flags}")
    run(
        sys.executable,
        *PYTEST,
        *(f"tests/{folder}" for folder in NUMERICAL),
        XLA_FLAGS=flags,
        OPENBLAS_CORETYPE=openblas,
    )


def sse4() -> None:
    """The numerical tests as a processor without AVX computes."""
    on_processor("SSE4_2", "Prescott")  # which are OpenBLAS's generic kernels; "Generic" it does not know


def avx2() -> None:
    """The numerical tests as a processor with AVX2 and no AVX-512 computes."""
    on_processor("AVX2", "Haswell")


def avx512() -> None:
    """The numerical tests as a processor with AVX-512 computes."""
    cpuinfo = Path("/proc/cpuinfo")
    if not (cpuinfo.exists() and "avx512f" in cpuinfo.read_text()):
        raise LeftOut("no AVX-512 here")
    on_processor("AVX512", "SkylakeX")


@functools.cache
def distributions() -> dict[str, Path]:
    """The source distribution and the wheel made of it, built anew, by the names of their jobs; twine accepts both."""
    place = CACHE / "dist"
    shutil.rmtree(place, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", place)
    (built,), (source,) = place.glob("*.whl"), place.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", built, source)
    return {"wheel": built, "sdist": source}


def installed(name: str) -> Path:
    """The folder of the programs of an empty environment with this distribution. Prints what is imported there."""
    shutil.rmtree(CACHE / name, ignore_errors=True)
    python = environment(f"{name}/environment", sys.executable)
    run(sys.executable, "-m", "uv", "pip", "install", "-q", "--python", python, distributions()[name])
    describe(python)
    run(python, "-c", "import spectral_jax as sj; print(sj.__file__, sj.__version__)", cwd=CACHE / name)
    return python.parent


def wheel() -> None:
    """The wheel, in an empty environment without the checkout: its own network, the demo, and its evaluation."""
    command = installed("wheel") / "spectral-jax"
    run(command, "sample", "demo", "--out", "people", cwd=CACHE / "wheel")
    run(command, "demo", cwd=CACHE / "wheel")
    run(command, "eval", "runs/demo", cwd=CACHE / "wheel")


def sdist() -> None:
    """The source distribution, in another such environment: an epoch of training on the demo data."""
    command = installed("sdist") / "spectral-jax"
    run(command, "train", "--network", "residual", "--epochs", "1", "--run", "runs/short", cwd=CACHE / "sdist")
    run(command, "eval", "runs/short", cwd=CACHE / "sdist")


JOBS: Mapping[str, Callable[[], None]] = {
    job.__name__: job for job in (own, newest, middle, lowest, sse4, avx2, avx512, wheel, sdist, debian)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    texts = "; ".join(f"{name}: {(job.__doc__ or '').strip().rstrip('.')}" for name, job in JOBS.items())
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], help=f"default: all but debian. {texts}", metavar="JOB")
    parser.add_argument("--minutes", type=float, help="start no job after so many minutes", default=float("inf"))
    options = parser.parse_args()
    rows, begun = [], time.monotonic()
    for name in options.jobs or [name for name in JOBS if name != "debian"]:
        print(f"\n===== {name}: {JOBS[name].__doc__}", flush=True)
        start, result = time.monotonic(), "passed"
        try:
            if start > begun + 60 * options.minutes:
                raise LeftOut(f"{options.minutes:g} minutes are over")
            JOBS[name]()
        except LeftOut as reason:
            result = f"left out: {reason}"
        except subprocess.CalledProcessError as error:
            result = f"FAILED: {' '.join(error.cmd)[:60]} ... (exit code {error.returncode})"
        rows.append((name, f"{time.monotonic() - start:,.0f} s", result))
        print(f"===== {name}: {result}", flush=True)
    print()
    for name, seconds, result in rows:
        print(f"{name:<12}{seconds:>8}  {result}")
    return int(any(result.startswith("FAILED") for *_, result in rows))


if __name__ == "__main__":
    sys.exit(main())
