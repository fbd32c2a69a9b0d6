"""Motion sequences in the format of AMASS: read, synthesise, write."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.bodies import anatomy, gestures
from spectral_jax.files import safe_files

NUM_POSES, NUM_BETAS = 156, 16
MOST_BYTES = 1 << 30  # of a file: two hours at 120 frames a second
KINDS = tuple(gestures.FAMILIES)


class MotionSequence(NamedTuple):
    """One subject moving: axis-angles in radians of the 52 SMPL-H joints, shape, and frames a second."""

    poses: Float[np.ndarray, "frame 156"]
    betas: Float[np.ndarray, "16"]
    gender: str
    framerate: float


def read_sequence(path: Path | str) -> MotionSequence:
    """Reads an AMASS .npz; ValueError names the file and what is missing, misshapen or not finite.

    72-number SMPL poses keep root and 21 body joints and get zero hands; betas are cut or zero-padded to 16.
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
    """Writes an AMASS .npz; trans is the root's path in metres, zero unless given."""
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
    """Poses of a plausible human motion of one of KINDS, its style drawn from the seed; ValueError for other kinds."""
    if kind not in KINDS:
        raise ValueError(f"no motion {kind!r}: there are {', '.join(KINDS)}")
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    return anatomy.joint_rotations(gestures.draw(kind, np.arange(num_frames) / framerate, rng))


def demo_subjects(num_subjects: int, seed: int) -> list[tuple[str, str, Float[np.ndarray, "16"]]]:
    """Name, gender and betas of a population: normal betas within 2.5 deviations, the later ones damped."""
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
    """Writes root/Demo/<subject>/<kind>_<nn>_poses.npz as AMASS lays its sets out, and returns the paths, sorted."""
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
