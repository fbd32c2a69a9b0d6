"""Read an epoch of data as the published system does: a folder in its 2022 layout and a loader for it.

Imported by epoch.py. The loader reads as WebDataset does: a tar from its first member to its last, each tensor with
torch.load, meshes shuffled through a buffer. PyTorch's DataLoader runs it in workers; a single tar occupies only the
first.
"""

import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

GRID = (65, 106)  # 6,890 vertices, as SMPL has
BUFFER = 1000  # meshes


def torus(num_modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the faces of a triangulated torus and its lowest modes, which are known in closed form."""
    rows, columns = GRID
    i, j = np.divmod(np.arange(rows * columns), columns)
    right, up = j + 1 - columns * (j == columns - 1), i + 1 - rows * (i == rows - 1)
    here, beside, above, across = (a * columns + b for a, b in ((i, j), (i, right), (up, j), (up, right)))
    faces = np.concatenate([np.stack([here, above, across], 1), np.stack([here, across, beside], 1)])
    p, q = 2 * np.pi * i / rows, 2 * np.pi * j / columns  # angular frequencies
    eigenvalues = 6 - 2 * np.cos(p) - 2 * np.cos(q) - 2 * np.cos(p + q)
    kept = np.argsort(eigenvalues, kind="stable")[:num_modes]
    phase = i[:, None] * p[kept] + j[:, None] * q[kept]
    return faces, (np.sqrt(2 / len(i)) * np.cos(phase - np.pi / 4)).astype(np.float32)


def write(root: Path, coefficients: np.ndarray, num_test: int = 8) -> Path:
    """Write these train meshes, random test meshes, a mesh and its modes into `root`; return the dataset folder."""
    faces, modes = torus(coefficients.shape[1])
    np.savetxt(root / "mesh.triv", faces + 1, fmt="%d")
    with (root / f"mesh.evecs_{len(modes)}").open("wb") as file:
        np.save(file, modes)
    folder = root / "RANDOM"
    folder.mkdir()
    (folder / "infos.json").write_text(json.dumps({"nb_train": len(coefficients), "nb_evals": num_test}))
    vertices = np.random.default_rng(1).standard_normal((num_test, len(modes), 3), np.float32)
    train = ({"coeffs": mesh} for mesh in coefficients)
    test = ({"coeffs": modes.T @ mesh, "vertices": mesh} for mesh in vertices)
    for split, meshes in (("train", train), ("test", test)):
        with tarfile.open(folder / f"{split}.tar", "w") as tar:
            for i, tensors in enumerate(meshes):
                labels = {"identity": f"{i % 8}", "dataset": "random", "file": "none", "frame_idx": i, "gender": "male"}
                _add(tar, f"{i:06d}.infos.json", json.dumps(labels).encode())
                for name, array in tensors.items():
                    stream = io.BytesIO()
                    torch.save(torch.from_numpy(array).clone(), stream)
                    _add(tar, f"{i:06d}.{name}.pth", stream.getvalue())
    return folder


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class TarMeshes(torch.utils.data.IterableDataset):
    """The coefficients in a tar, shuffled through a buffer."""

    def __init__(self, path: Path):
        self.path = path

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker, held = torch.utils.data.get_worker_info(), []
        if worker is not None and worker.id > 0:
            return
        for coefficients in self.meshes():
            if len(held) < BUFFER:
                held.append(coefficients)
                continue
            i = random.randrange(BUFFER)
            held[i], chosen = coefficients, held[i]
            yield chosen
        random.shuffle(held)
        yield from held

    def meshes(self) -> Iterator[torch.Tensor]:
        """Yield coefficients in file order; like WebDataset, read and decode all other members too."""
        with tarfile.open(self.path, "r|") as tar:
            for member in tar:
                content = tar.extractfile(member).read()
                if member.name.endswith(".json"):
                    json.loads(content)
                else:
                    yield torch.load(io.BytesIO(content), weights_only=True)


def loader(path: Path, batch: int, workers: int) -> torch.utils.data.DataLoader:
    """Return a loader of batches from a tar; its workers persist from epoch to epoch."""
    more = {"persistent_workers": True, "multiprocessing_context": "forkserver"} if workers else {}
    pinned = torch.cuda.is_available()
    return torch.utils.data.DataLoader(TarMeshes(path), batch, num_workers=workers, pin_memory=pinned, **more)
