"""Bodies of the SMPL-H and SMPL formats: from poses and betas to posed, normalised vertices."""

import re
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial.transform import Rotation

from spectral_jax.bodies import smplh_pickle
from spectral_jax.files import safe_files

NUM_BETAS = 16
TO_Y_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # from coordinates whose z points up


def arrays_of(num_joints: int) -> dict[str, tuple[int | str, ...]]:
    """The arrays of a body file and their sizes; V and F are the numbers of vertices and faces."""
    return {
        "v_template": ("V", 3),
        "f": ("F", 3),
        "weights": ("V", num_joints),
        "shapedirs": ("V", 3, NUM_BETAS),
        "posedirs": ("V", 3, 9 * (num_joints - 1)),
        "J_regressor": (num_joints, "V"),
        "kintree_table": (2, num_joints),
    }


SMPLH_JOINTS, SMPL_JOINTS = 52, 24  # SMPL has one joint for each hand
SMPL_BETAS = 10  # that an SMPL body has at least
ARRAYS = arrays_of(SMPLH_JOINTS)
INTEGERS = ("f", "kintree_table")
ROOT_PARENTS = (-1, 2**32 - 1)  # values that mean no parent
DEMO_SIZES = (1229, 12272)
GENDERS = ("female", "male", "neutral")
SMPLH_NAME = re.compile(r"smplh_(female|male|neutral)")
SMPL_NAME = re.compile(r"(?:smpl|basicmodel)_(female|male|neutral|f|m)(?:_lbs_.*)?")  # also those that the site gives
SEARCH_DEPTH = 3
ARCHIVES = (".xz", ".zip", ".bz2", ".gz", ".tar")


class Body(NamedTuple):
    """A body model: the SMPLH or SMPL of body-models, which holds JAX arrays, and its faces."""

    model: Any
    faces: Int[np.ndarray, "face 3"]

    @property
    def num_vertices(self) -> int:
        return self.model.num_vertices

    @property
    def num_joints(self) -> int:
        return self.model.NUM_JOINTS

    @property
    def name(self) -> str:
        return "SMPL-H" if self.num_joints == SMPLH_JOINTS else "SMPL"


def demo_body_path(num_vertices: int = 1229) -> Path:
    """The file of the demo body with 1,229 or 12,272 vertices. Raises ValueError for another number."""
    if num_vertices not in DEMO_SIZES:
        raise ValueError(f"no demo body of {num_vertices} vertices, available: {', '.join(map(str, DEMO_SIZES))}")
    return Path(str(files("spectral_jax") / "assets" / f"demo_body_{num_vertices}.npz"))


def find_bodies(folder: Path | str) -> dict[str, Path]:
    """Find the body file of each gender ("female", "male", perhaps "neutral") in a folder or up to three levels below.

    SMPL-H files are SMPLH_<GENDER>.npz or .pkl, in any case, or <gender>/model.npz or .pkl. Where they are missing,
    SMPL files are taken: SMPL_<GENDER> or basicModel_<g>_lbs_.... An .npz is preferred to any .pkl, because the pickles
    of the MANO archive lack shape components. Raises ValueError naming the folder and the gender that is missing, or
    the two files of one gender.
    """
    folder = Path(folder)
    smplh, smpl = ({gender: [] for gender in GENDERS} for _ in range(2))
    if folder.is_file():
        raise ValueError(f"{folder}: a file, expected the folder that it unpacks to")
    for depth in range(SEARCH_DEPTH + 1):
        for path in folder.glob("*/" * depth + "*"):
            name = (f"smplh_{path.parent.name}" if path.stem.lower() == "model" else path.stem).lower()
            for found, pattern in ((smplh, SMPLH_NAME), (smpl, SMPL_NAME)):
                match = pattern.fullmatch(name)
                if match and path.suffix.lower() in (".npz", ".pkl") and path.is_file():
                    found[{"f": "female", "m": "male"}.get(match[1], match[1])].append(path)
    found = smpl if any(smpl.values()) and not (smplh["female"] and smplh["male"]) else smplh
    for gender, paths in found.items():
        paths.sort(key=lambda path: (path.suffix.lower() != ".npz", path))
        paths[:] = [path for path in paths if path.suffix.lower() == paths[0].suffix.lower()]
        paths[:] = {path.resolve(): path for path in reversed(paths)}.values()  # a file and a link to it are one body
        paths.reverse()
        if len(paths) > 1:
            raise ValueError(f"{folder}: two {gender} bodies, keep one of {paths[0]} and {paths[1]}")
    missing = [gender for gender in ("female", "male") if not found[gender]]
    if missing:
        packed = sorted(path.name for path in folder.glob("*") if path.suffix.lower() in ARCHIVES)
        other = "SMPL_{0}" if found is smpl else "{1}/model"
        raise ValueError(
            f"{folder}: no {' and no '.join(missing)} body: looked here and up to {SEARCH_DEPTH} folders down for "
            + " and ".join(f"SMPLH_{gender.upper()} or {other.format(gender.upper(), gender)}" for gender in missing)
            + ", .npz or .pkl"
            + (f"; unpack {', '.join(packed[:5])} first" if packed else "")
        )
    return {gender: paths[0] for gender, paths in found.items() if paths}


def load_body(path: Path | str) -> Body:
    """Read an SMPL-H or SMPL file, .npz or .pkl (of any Python, with or without chumpy). Nothing in it is executed.

    The first 16 shape components are used; of SMPL, which may have 10, those that there are. Raises ValueError naming
    the file and what is missing or wrong.
    """
    from body_models.smpl.jax import SMPL
    from body_models.smplh.jax import SMPLH

    arrays = _read_arrays(Path(path))
    # body-models unpickles the file it reads, so it gets a copy with only the checked arrays.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "body.npz"
        np.savez(copy, allow_pickle=False, **arrays)
        smpl = len(arrays["J_regressor"]) == SMPL_JOINTS
        model = SMPL(model_path=copy) if smpl else SMPLH(model_path=copy, flat_hand_mean=True)
    return Body(model, np.asarray(model.faces, np.int32))


def read_joint_regressor(path: Path | str) -> Float[np.ndarray, "joint vertex"]:
    """The matrix from vertices to joints in a body file, or in a .npy file of numbers (joint, vertex).

    Raises ValueError as `load_body` does, and for an array of another shape.
    """
    path = Path(path)
    if path.suffix.lower() != ".npy":
        return _read_arrays(path)["J_regressor"].astype(np.float32)
    array = safe_files.open_npy(path)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ValueError(f"{path}: {array.dtype} {array.shape}, expected finite numbers (joint, vertex)")
    return np.asarray(array, np.float32)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"{path}: no such body file")
    if path.suffix.lower() not in (".npz", ".pkl"):
        raise ValueError(f"{path}: expected an SMPL-H or SMPL file, .npz or .pkl")
    pickled = nullcontext(smplh_pickle.load(path, ARRAYS)) if path.suffix.lower() == ".pkl" else None
    try:
        with pickled or safe_files.open_npz(path, smplh_pickle.FILE_BYTES) as arrays:
            return _check_arrays(arrays)
    except ValueError as error:
        raise ValueError(f"{path}: not a usable SMPL-H or SMPL body: {error}") from error


def _check_arrays(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Check the arrays and convert them to float32 and int64, one by one to save memory."""
    missing = sorted(set(ARRAYS) - set(arrays))
    if missing:
        raise ValueError(f"no array {', '.join(missing)}")
    checked, sizes = {}, {}
    smpl = arrays["kintree_table"].shape == (2, SMPL_JOINTS)
    least = SMPL_BETAS if smpl else NUM_BETAS
    for name, axes in arrays_of(SMPL_JOINTS if smpl else SMPLH_JOINTS).items():
        array, integers = arrays[name], name in INTEGERS
        if array.dtype.kind not in ("iu" if integers else "fiu"):
            raise ValueError(f"{name} has the dtype {array.dtype}, expected {'integers' if integers else 'numbers'}")
        if name == "shapedirs" and array.ndim == 3:
            if array.shape[2] < least:
                extended = ", as many as AMASS has betas: get the extended SMPL+H model, smplh.tar.xz"
                remedy = "" if smpl else f"{extended} (mano.is.tue.mpg.de)"
                raise ValueError(f"shapedirs has {array.shape[2]} shape components, {least} needed{remedy}")
            array = array[..., :NUM_BETAS]
            array = np.pad(array, ((0, 0), (0, 0), (0, NUM_BETAS - array.shape[2])))  # betas without effect
        expected = tuple(
            sizes.setdefault(n, array.shape[0] if array.ndim else 0) if isinstance(n, str) else n for n in axes
        )
        if array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
        with np.errstate(over="ignore"):
            checked[name] = np.ascontiguousarray(array, np.int64 if integers else np.float32)
        if not np.isfinite(checked[name]).all():
            raise ValueError(f"{name} has numbers that are not finite in float32")
    vertices = checked["f"].ravel()
    if not vertices.size or vertices.min() < 0 or vertices.max() >= sizes["V"]:
        found = f"{vertices.min()} to {vertices.max()}" if vertices.size else "no vertices"
        raise ValueError(f"f joins {found}, expected vertices from 0 to {sizes['V'] - 1}")
    for joint, parent in enumerate(checked["kintree_table"][0].tolist()):
        if not (0 <= parent < joint if joint else parent in ROOT_PARENTS):
            expected = f"one from 0 to {joint - 1}" if joint else " or ".join(map(str, ROOT_PARENTS))
            raise ValueError(f"kintree_table gives joint {joint} the parent {parent}, expected {expected}")
    return checked


def pose_bodies(
    body: Body, poses: Float[Array | np.ndarray, "batch angle"], betas: Float[Array | np.ndarray, "batch 16"]
) -> Float[Array, "batch vertex 3"]:
    """Vertices in metres of bodies posed by axis-angles, with the pelvis at the origin and no root orientation.

    Poses have three numbers for each joint: 156 for SMPL-H, as in AMASS, and 72 for SMPL.
    The root orientation is a rotation about the pelvis, so it is removed by ignoring poses[:, :3].
    """
    return _pose(body.model, poses, betas)


def orient(
    vertices: Float[Array, "batch vertex 3"], rotations: Float[np.ndarray, "batch 3"]
) -> Float[Array, "batch vertex 3"]:
    """Turn bodies about the pelvis by axis-angles in AMASS's world, whose z points up, into one whose y does."""
    turns = TO_Y_UP @ Rotation.from_rotvec(rotations).as_matrix()
    return jnp.einsum("bvc,bdc->bvd", vertices, turns.astype(np.float32), precision="highest")


@partial(jax.jit, static_argnums=0)
def _pose(model: Any, poses: Array, betas: Array) -> Array:
    """Pose by one product with the dense skinning weights: three times as fast on a CPU as body-models' gathers."""
    joints = poses.astype("float32").reshape(-1, model.NUM_JOINTS, 3)
    parts = (joints[:, 1:22], joints[:, 22:]) if model.has_hands else (joints[:, 1:],)
    with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("allow"):
        identity = model.prepare_identity(betas.astype("float32"))
        pose = model.prepare_pose(*parts, identity=identity)
        rest = model.apply_pose_correctives(identity=identity, pose=pose).transpose(1, 2, 0)
        blended = jnp.einsum("vj,bjrc->vrcb", model.skin_weights, pose["skinning_transforms"][:, :, :3])
        vertices = sum(blended[:, :, c] * rest[:, None, c] for c in range(3)) + blended[:, :, 3]
        pelvis = pose["skeleton_transforms"][:, 0, :3, 3]
        return vertices.transpose(2, 0, 1) - pelvis[:, None]
