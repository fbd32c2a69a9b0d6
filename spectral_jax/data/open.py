"""Open any dataset: a prepared folder, either PyTorch layout, or the demo."""

from __future__ import annotations

from pathlib import Path

from spectral_jax.data import dataset, posed_bodies, pytorch_layouts
from spectral_jax.data.dataset import Data
from spectral_jax.data.recipes import DEMO_DATA, DemoRecipe
from spectral_jax.files.progress import SILENT, Progress


def open_data(source: str | Path, progress: Progress = SILENT) -> Data:
    """Open a prepared folder, a dataset in either PyTorch layout, or "demo", which is built if it is missing.

    Meshes are read when they are indexed. The demo lies in data/demo. Raises ValueError naming the folder if it is
    missing or not a dataset.
    """
    if source == "demo":
        source = DEMO_DATA
        if not source.exists():
            posed_bodies.demo(DemoRecipe(), progress)
    if pytorch_layouts.pytorch_layout(source):
        return pytorch_layouts.open_pytorch_layout(source)
    return dataset.open_prepared(source)
