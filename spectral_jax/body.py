"""SMPL-H-format bodies: poses and betas to posed, normalised vertices."""

import tempfile
import zipfile
import zlib
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

NUM_BETAS = 16
ARRAYS = {
    "v_template": ("V", 3),
    "f": ("F", 3),
    "weights": ("V", 52),
    "shapedirs": ("V", 3, NUM_BETAS),
    "posedirs": ("V", 3, 459),
    "J_regressor": (52, "V"),
    "kintree_table": (2, 52),
}
DEMO_SIZES = (1229, 12272)


class Body(NamedTuple):
    """A body model: the body-models SMPLH of JAX arrays, and its faces."""

    model: Any
    faces: Int[np.ndarray, "face 3"]

    @property
    def num_vertices(self) -> int:
        return self.model.num_vertices


def demo_body_path(num_vertices: int = 1229) -> Path:
    """The demo body file of 1,229 or 12,272 vertices; ValueError for another number."""
    if num_vertices not in DEMO_SIZES:
        raise ValueError(f"there are demo bodies of 1229 and 12272 vertices, not of {num_vertices}")
    return Path(str(files("spectral_jax") / "assets" / f"demo_body_{num_vertices}.npz"))


def load_body(path: Path | str) -> Body:
    """Reads an SMPL-H file, .npz (never unpickled) or .pkl (unpickled: only from a source you trust).

    ValueError names the file and what is missing or of an unexpected shape.
    """
    from body_models.smplh.jax import SMPLH

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such body file")
    if path.suffix == ".pkl":
        try:
            return _body(SMPLH(model_path=path, flat_hand_mean=True))
        except Exception as error:  # unpickling can fail in any way
            raise ValueError(f"{path}: not an SMPL-H body: {error!r}") from error
    if path.suffix != ".npz":
        raise ValueError(f"{path}: expected an SMPL-H .npz or .pkl file")
    arrays = _read_arrays(path)
    # body-models reads .npz with pickle allowed, and every array of it: it gets a copy of the checked arrays only.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "body.npz"
        np.savez(copy, allow_pickle=False, **arrays)
        return _body(SMPLH(model_path=copy, flat_hand_mean=True))


def _body(model: Any) -> Body:
    return Body(model, np.asarray(model.faces, np.int32))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as data:
            missing = sorted(set(ARRAYS) - set(data.files))
            if missing:
                raise ValueError(f"no array {', '.join(missing)}")
            arrays = {name: data[name] for name in ARRAYS}
    except (ValueError, TypeError, OSError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not an SMPL-H body: {error}") from error
    num_vertices = len(arrays["v_template"])
    for name, shape in ARRAYS.items():
        found = arrays[name].shape
        expected = tuple({"V": num_vertices, "F": found[0] if found else 0}.get(n, n) for n in shape)
        if found != expected:
            raise ValueError(f"{path}: {name} has shape {found}, expected {expected}")
    return arrays


def pose_bodies(
    body: Body, poses: Float[Array | np.ndarray, "batch 156"], betas: Float[Array | np.ndarray, "batch 16"]
) -> Float[Array, "batch vertex 3"]:
    """Vertices in metres of bodies posed by AMASS axis-angles, pelvis joint at the origin, root orientation removed.

    Taking out the root orientation, a rotation about the pelvis, is posing without it: poses[:, :3] is not read.
    """
    return _pose(body.model, poses, betas)


@partial(jax.jit, static_argnums=0)
def _pose(model: Any, poses: Array, betas: Array) -> Array:
    poses = poses.astype("float32").reshape(-1, 52, 3)
    betas = betas.astype("float32")
    with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("allow"):
        identity = model.prepare_identity(betas)
        body, hands = poses[:, 1:22], poses[:, 22:]
        vertices = model.forward_vertices(body, hands, identity=identity)
        pelvis = model.forward_skeleton(body, hands, identity=identity, joint_indices=[0])[:, :1, :3, 3]
        return vertices - pelvis
