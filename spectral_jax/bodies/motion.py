"""Motion sequences in the AMASS format: read, synthesise, write."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.bodies import anatomy, gestures
from spectral_jax.files import safe_files

NUM_POSES = 156  # axis-angles of 52 joints
NUM_BODY = 66  # of them, those of the root and the 21 body joints
NUM_SMPL = 72  # axis-angles of SMPL's 24 joints: the same, and one for each hand
NUM_BETAS = 16
FRAMERATE = ("mocap_framerate", "mocap_frame_rate", "framerate", "frame_rate", "fps")  # names that it may have
MOST_BYTES = 1 << 30  # limit of a file's size: two hours at 120 frames per second
KINDS = tuple(gestures.FAMILIES)


class MotionSequence(NamedTuple):
    """A motion of one subject.

    Attributes:
      poses: axis-angles in radians of the 52 SMPL-H joints, or of the 24 SMPL joints (72) where those are asked for.
      betas: shape.
      gender: in lower case, "" if the file does not say.
      framerate: frames per second, None if the file does not say.
    """

    poses: Float[np.ndarray, "frame angle"]
    betas: Float[np.ndarray, "16"]
    gender: str
    framerate: float | None


def read_sequence(path: Path | str, num_poses: int = NUM_POSES) -> MotionSequence:
    """Read an AMASS .npz. Raises ValueError naming the file and what is missing, wrongly shaped or not finite.

    Poses may be one array, or arrays of root, body and hands. They become poses of SMPL-H (`num_poses` 156) or SMPL
    (72). From one to the other, root and 21 body joints are kept, and hands are zero: SMPL's joint of a hand is none
    of SMPL-H's. Betas are truncated or padded with zeros to 16; rows of betas must be equal.
    """
    try:
        with safe_files.open_npz(path, MOST_BYTES) as data:
            poses, betas = _poses(data), data["betas"]
            gender = data["gender"].item() if "gender" in data else ""
            rate = next((data[name].item() for name in FRAMERATE if name in data), None)
        gender = gender.decode() if isinstance(gender, bytes) else str(gender)
        framerate = None if rate is None else float(rate)
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{path}: not an AMASS sequence: {error}") from error
    if poses.ndim == 3 and poses.shape[2] == 3:
        poses = poses.reshape(len(poses), -1)
    if poses.ndim != 2 or poses.shape[1] not in (NUM_BODY, NUM_SMPL, NUM_POSES):
        raise ValueError(f"{path}: poses have shape {poses.shape}, expected (frames, 156) or (frames, 72)")
    if not len(poses):
        raise ValueError(f"{path}: poses have shape {poses.shape}: no frames")
    for name, array in (("poses", poses), ("betas", betas), ("framerate", np.array(framerate or 0.0))):
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {name}: {array.dtype}, expected numbers")
        if not (abs(array) <= np.finfo(np.float32).max).all():
            raise ValueError(f"{path}: {name}: not all values are finite")
    if betas.ndim == 2 and len(betas):
        differ = (betas != betas[0]).any(axis=1)
        if differ.any():
            row = int(differ.argmax())
            raise ValueError(
                f"{path}: betas have shape {betas.shape}, and row {row} differs from row 0, expected one shape"
            )
        betas = betas[0]
    if betas.ndim != 1:
        raise ValueError(f"{path}: betas have shape {betas.shape}, expected (16,) or equal rows of 16")
    if poses.shape[1] != num_poses:
        poses = np.pad(poses[:, :NUM_BODY], ((0, 0), (0, num_poses - NUM_BODY)))
    betas = np.pad(betas[:NUM_BETAS], (0, max(0, NUM_BETAS - len(betas))))
    gender = gender.removeprefix("b'").removesuffix("'").strip().lower()  # str(b"male") is in some files
    return MotionSequence(poses.astype(np.float32), betas.astype(np.float32), gender, framerate)


def _poses(data: Mapping[str, Any]) -> np.ndarray:
    """The poses in a file: one array, or one for each of root, body and (if there are any) hands.

    Raises ValueError for those of SMPL-X, whose betas mean other shapes than those of SMPL-H.
    """
    split, smplx = "poses" not in data and "pose_body" in data, ""
    if "surface_model_type" in data:
        model = str(data["surface_model_type"]).lower()[:20]
        smplx = f"surface_model_type is {model}" if "smplx" in model else ""
    if split and "pose_jaw" in data:
        smplx = "there is a pose_jaw"
    poses = np.zeros((0, 0)) if smplx else _joined(data) if split else data["poses"]
    if poses.shape[1:] in ((165,), (55, 3)):
        smplx = f"poses have shape {poses.shape}"
    if smplx:
        raise ValueError(f"SMPL-X poses ({smplx}), expected SMPL-H: amass.is.tue.mpg.de has the set as 'SMPL+H G' too")
    return poses


def _joined(data: Mapping[str, Any]) -> np.ndarray:
    """The poses of files that have an array for each of root, body and hands."""
    sizes = {"root_orient": 3, "pose_body": NUM_BODY - 3, "pose_hand": NUM_POSES - NUM_BODY}
    parts = {name: data[name] for name in sizes if name in data or name != "pose_hand"}
    frames = len(parts["root_orient"]) if parts["root_orient"].ndim else 0
    for name, part in parts.items():
        if part.shape != (frames, sizes[name]):
            raise ValueError(f"{name} has shape {part.shape}, expected ({frames}, {sizes[name]})")
        if part.dtype.kind not in "fiu":
            raise ValueError(f"{name} is {part.dtype}, expected numbers")
    return np.concatenate(list(parts.values()), axis=1)


def write_sequence(
    path: Path | str, sequence: MotionSequence, trans: Float[np.ndarray, "frame 3"] | None = None
) -> None:
    """Write an AMASS .npz; trans is the path of the root in metres (default: zero)."""
    arrays = {"poses": sequence.poses, "betas": sequence.betas, "gender": np.array(sequence.gender)}
    arrays["trans"] = np.zeros((len(sequence.poses), 3), np.float32) if trans is None else trans
    if sequence.framerate is not None:
        arrays["mocap_framerate"] = np.array(sequence.framerate)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def synthesise(
    kind: str, num_frames: int, framerate: float, seed: int | tuple[int, ...]
) -> Float[np.ndarray, "frame 156"]:
    """Poses of a plausible human motion of one of KINDS, styled by the seed. Raises ValueError for other kinds."""
    if kind not in KINDS:
        raise ValueError(f"no motion {kind!r}, available: {', '.join(KINDS)}")
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    return anatomy.joint_rotations(gestures.draw(kind, np.arange(num_frames) / framerate, rng))


def demo_subjects(num_subjects: int, seed: int) -> list[tuple[str, str, Float[np.ndarray, "16"]]]:
    """Names, genders and betas of a population: normal betas within 2.5 standard deviations, the later ones damped."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, num_subjects]))
    betas = np.clip(rng.normal(size=(num_subjects, NUM_BETAS)), -2.5, 2.5) * np.linspace(1.0, 0.5, NUM_BETAS)
    return [(f"subject{n:03d}", ("female", "male")[n % 2], row.astype(np.float32)) for n, row in enumerate(betas)]


def write_demo_motions(
    root: Path,
    num_subjects: int = 38,
    sequences_per_subject: int = 10,
    num_frames: int = 120,
    framerate: float = 30.0,
    seed: int = 0,
) -> list[Path]:
    """Write root/Demo/<subject>/<kind>_<nn>_poses.npz in the layout of AMASS, and return the sorted paths."""
    paths = []
    for n, (name, gender, betas) in enumerate(demo_subjects(num_subjects, seed)):
        folder = Path(root) / "Demo" / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(sequences_per_subject):
            kind = KINDS[(n + i) % len(KINDS)]
            poses = synthesise(kind, num_frames, framerate, (seed, n, i))
            paths.append(folder / f"{kind}_{i:02d}_poses.npz")
            write_sequence(paths[-1], MotionSequence(poses, betas, gender, framerate))
    return sorted(paths)
