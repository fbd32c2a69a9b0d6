"""Motion sequences in the AMASS format: read, synthesise, write."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.bodies import anatomy, gestures
from spectral_jax.files import safe_files

NUM_POSES = 156  # axis-angles of 52 joints
NUM_BETAS = 16
MOST_BYTES = 1 << 30  # limit of a file's size: two hours at 120 frames per second
KINDS = tuple(gestures.FAMILIES)


class MotionSequence(NamedTuple):
    """A motion of one subject: axis-angles of the 52 SMPL-H joints in radians, shape, gender, and frames per second."""

    poses: Float[np.ndarray, "frame 156"]
    betas: Float[np.ndarray, "16"]
    gender: str
    framerate: float


def read_sequence(path: Path | str) -> MotionSequence:
    """Read an AMASS .npz. Raises ValueError naming the file and what is missing, wrongly shaped or not finite.

    Of SMPL poses (72 numbers) root and 21 body joints are kept, and hands are zero. Betas are truncated or padded with
    zeros to 16.
    """
    try:
        with safe_files.open_npz(path, MOST_BYTES) as data:
            rate = "mocap_frame_rate" if "mocap_frame_rate" in data else "mocap_framerate"
            missing = [name for name in ("poses", "betas", "gender", rate) if name not in data]
            if missing:
                raise ValueError(f"no array {', '.join(missing)}")
            poses, betas, gender, framerate = data["poses"], data["betas"], data["gender"].item(), data[rate].item()
        gender = gender.decode() if isinstance(gender, bytes) else str(gender)
        framerate = float(framerate)
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{path}: not an AMASS sequence: {error}") from error
    if poses.ndim != 2 or poses.shape[1] not in (72, NUM_POSES):
        raise ValueError(f"{path}: poses have shape {poses.shape}, expected (frames, 156) or (frames, 72)")
    if betas.ndim != 1:
        raise ValueError(f"{path}: betas have shape {betas.shape}, expected (16,)")
    for name, array in (("poses", poses), ("betas", betas), ("framerate", np.array(framerate))):
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {name}: {array.dtype}, expected numbers")
        if not (abs(array) <= np.finfo(np.float32).max).all():
            raise ValueError(f"{path}: {name}: not all values are finite")
    if poses.shape[1] == 72:
        poses = np.pad(poses[:, :66], ((0, 0), (0, NUM_POSES - 66)))
    betas = np.pad(betas[:NUM_BETAS], (0, max(0, NUM_BETAS - len(betas))))
    return MotionSequence(poses.astype(np.float32), betas.astype(np.float32), gender, framerate)


def write_sequence(
    path: Path | str, sequence: MotionSequence, trans: Float[np.ndarray, "frame 3"] | None = None
) -> None:
    """Write an AMASS .npz; trans is the path of the root in metres (default: zero)."""
    np.savez_compressed(
        path,
        poses=sequence.poses,
        betas=sequence.betas,
        trans=np.zeros((len(sequence.poses), 3), np.float32) if trans is None else trans,
        gender=np.array(sequence.gender),
        mocap_framerate=np.array(sequence.framerate),
    )


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
