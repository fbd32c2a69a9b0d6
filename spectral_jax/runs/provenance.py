"""Provenance of a result: versions, revision, devices and data, as recorded in a run's config.json."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from spectral_jax import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
ENDS = 1 << 20  # bytes at each end of a data file that enter the fingerprint


def record(data: str | Path | None = None) -> dict[str, Any]:
    """Versions, revision and devices of this process, with the fingerprint of the data if they exist."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"spectral-jax": __version__, **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "revision": revision(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "data_fingerprint": fingerprint(data) if data and Path(data).exists() else None,
    }


def revision() -> str | None:
    """The git revision of this package, with -dirty if it has changes; None outside a checkout of the package."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def fingerprint(path: str | Path) -> str:
    """SHA-256 of the name, the size and both ends of a file, or of all files in a folder except hidden ones."""
    path = Path(path)
    files = sorted(p for p in path.rglob("[!.]*") if p.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        total.update(f"{file.relative_to(path) if path.is_dir() else file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            total.update(stream.read(ENDS))
            stream.seek(max(ENDS, size - ENDS))
            total.update(stream.read(ENDS))
    return total.hexdigest()
