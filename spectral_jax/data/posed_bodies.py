"""Datasets of posed SMPL-H or SMPL bodies: the demo, and the published AMASS and DFAUST datasets.

Each example is one frame of a motion: pelvis at the origin, root orientation removed, metres.
"""

from __future__ import annotations

import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from spectral_jax.basis import formats
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.bodies import amass
from spectral_jax.bodies.amass import Recording
from spectral_jax.bodies.motion import NUM_POSES, MotionSequence, read_sequence, write_demo_motions
from spectral_jax.bodies.smplh import Body, demo_body_path, find_bodies, load_body, orient, pose_bodies
from spectral_jax.data import projection, writer
from spectral_jax.data.projection import Projector, Row
from spectral_jax.data.recipes import DemoRecipe, PublishedRecipe
from spectral_jax.data.writer import Skipped, Source
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry.mesh import Mesh

DEMO_SUBJECTS = {"train": 32, "test": 6}
DEMO_FRAMES = 12  # of each sequence
FILES_AHEAD = 4  # sequence files read before they are needed


def demo(recipe: DemoRecipe, progress: Progress = SILENT) -> Path:
    """Build the demo dataset and return its folder. Raises ValueError if the folder exists (unless overwrite)."""
    writer.check_replaceable(recipe.out, recipe.overwrite)
    body = load_body(demo_body_path(recipe.vertices))
    basis = formats.cached(body.faces, body.num_vertices, recipe.modes, progress=progress)
    projector = _projector(basis, {"male": body, "female": body})
    metadata = {"recipe": "demo", "seed": recipe.seed, "frames_per_sequence": DEMO_FRAMES}
    with tempfile.TemporaryDirectory() as folder:
        subjects = sum(DEMO_SUBJECTS.values())
        paths = sorted(write_demo_motions(Path(folder), num_subjects=subjects, seed=recipe.seed))
        recordings = [Recording(path, path.parent.parent.name, path.parent.name) for path in paths]
        train = set(sorted({r.identity for r in recordings})[: DEMO_SUBJECTS["train"]])
        splits = {
            "train": [r for r in recordings if r.identity in train],
            "test": [r for r in recordings if r.identity not in train],
        }
        sources = {  # without a version: the recordings are temporary, so an interrupted build starts over
            split: Recordings(chosen, _demo_frames, strict=True).source(projector, split == "test")
            for split, chosen in splits.items()
        }
        template, overwrite = _rest_shape(body), recipe.overwrite
        return writer.write(recipe.out, basis, template, sources, metadata, overwrite=overwrite, progress=progress)


def published(which: Literal["amass", "dfaust"], recipe: PublishedRecipe, progress: Progress = SILENT) -> Path:
    """Build the published AMASS or DFAUST dataset and return its folder.

    Sequences of any gender but female use the male body; SMPL bodies get SMPL poses (see `read_sequence`). Raises
    ValueError for missing sets or identities (unless allow_missing), for bodies of different kinds or connectivities,
    and, if strict, for a sequence file that cannot be read.
    """
    writer.check_replaceable(recipe.out, recipe.overwrite)
    frames, sets = _frames(which, recipe), amass.find_sets(recipe.amass)
    own = {split: getattr(recipe, f"{split}_sets", names) for split, names in amass.SPLITS.items()}
    if which == "amass":
        splits = amass.published_splits(sets, recipe.allow_missing, own)
    else:
        splits = amass.dfaust_splits(sets, recipe.allow_missing)
    paths = find_bodies(recipe.body_dir)
    bodies = {sex: load_body(paths[sex]) for sex in ("male", "female")}
    male, female = bodies["male"], bodies["female"]
    if male.name != female.name:
        raise ValueError(f"{paths['male']} is an {male.name} body, {paths['female']} an {female.name} body")
    if male.num_vertices != female.num_vertices or not np.array_equal(male.faces, female.faces):
        raise ValueError(
            f"{paths['male']} has {male.num_vertices} vertices and {len(male.faces)} faces, {paths['female']} has "
            f"{female.num_vertices} and {len(female.faces)}, or other faces: not the same connectivity"
        )
    template = _rest_shape(male)
    basis = projection.choose_basis(template, recipe, progress)
    projector = _projector(basis, bodies, recipe.keep_root)
    sources = {}
    for split, recordings in splits.items():
        files = [paths["male"], paths["female"], *(r.path for r in recordings)]
        version = writer.file_version(files) + recipe.strict * " strict"
        chosen = Recordings(recordings, frames, recipe.strict, 3 * male.num_joints)
        sources[split] = chosen.source(projector, split == "test", version)
    metadata = {"recipe": which, "folder": str(recipe.amass), "body_folder": str(recipe.body_dir), "body": male.name}
    options = {"every": recipe.every, "fps": recipe.fps, "keep_root": recipe.keep_root or None}
    metadata |= {name: value for name, value in options.items() if value is not None}
    if which == "amass" and own != amass.SPLITS:
        metadata |= {f"{split}_sets": list(names) for split, names in own.items()}
    overwrite = recipe.overwrite
    return writer.write(recipe.out, basis, template, sources, metadata, overwrite=overwrite, progress=progress)


def _demo_frames(sequence: MotionSequence) -> list[int]:
    return np.linspace(0, len(sequence.poses), DEMO_FRAMES, endpoint=False).astype(int).tolist()


def _frames(which: Literal["amass", "dfaust"], recipe: PublishedRecipe) -> Callable[[MotionSequence], Iterable[int]]:
    """The frames of a sequence that become examples. Raises ValueError for options that choose none."""
    every, fps = recipe.every, recipe.fps
    if every is not None and fps is not None:
        raise ValueError(f"--every {every} and --fps {fps:g} both choose frames: give one")
    if (every is not None and every < 1) or (fps is not None and not 0 < fps < math.inf):
        raise ValueError(f"--every and --fps must be above 0, not {every if fps is None else fps}")

    def frames(sequence: MotionSequence) -> Iterable[int]:
        count = len(sequence.poses)
        start, stop = (int(0.1 * count), int(0.9 * count)) if which == "amass" else (0, count)
        if fps is None:
            return range(start, stop, every or (100 if which == "amass" else 1))
        if not sequence.framerate:
            raise ValueError(f"the file has no frame rate, which --fps {fps:g} needs")
        chosen = np.arange(start, stop, max(1.0, sequence.framerate / fps))
        return chosen.astype(int).tolist()

    return frames


def _rest_shape(body: Body) -> Mesh:
    """The body in its rest pose, with the mean shape."""
    size = projection.BATCH  # the batch size that `pose_bodies` is compiled for in any case
    poses, betas = np.zeros((size, 3 * body.num_joints), np.float32), np.zeros((size, 16), np.float32)
    return Mesh(np.asarray(pose_bodies(body, poses, betas)[0]), body.faces)


def _projector(basis: SpectralBasis, bodies: Mapping[str, Body], keep_root: bool = False) -> Projector:
    """Projects rows of poses and betas, whose kind is the sex of the body."""

    def vertices_of(sex, poses, betas):
        vertices = pose_bodies(bodies[sex], poses, betas)
        return orient(vertices, poses[:, :3]) if keep_root else vertices

    return Projector(basis, vertices_of, projection.BATCH)


@dataclass(frozen=True)
class Recordings:
    """The sequence files of a split.

    Attributes:
      recordings: in order.
      frames: given a sequence, the frames that become examples; ValueError if it does not tell.
      strict: raise for a file that cannot be read, instead of skipping it.
      num_poses: numbers in a pose of the bodies.
    """

    recordings: Sequence[Recording]
    frames: Callable[[MotionSequence], Iterable[int]]
    strict: bool
    num_poses: int = NUM_POSES

    def source(self, projector: Projector, keep_vertices: bool, version: str = "") -> Source:
        """The examples of the recordings, as the writer takes them."""
        names = [str(Path(r.dataset) / r.identity / r.path.name) for r in self.recordings]
        return Source(names, lambda start: projector.examples(self.rows(start), keep_vertices), version)

    def rows(self, start: int) -> Iterator[tuple[int, Row | Skipped]]:
        """Pose and shape of the chosen frames from recording `start` on; a thread reads the files ahead."""
        with ThreadPoolExecutor(1) as pool:
            ahead: deque[Future[tuple[MotionSequence, Iterable[int]] | ValueError]] = deque()
            later = iter(self.recordings[start:])
            for index in range(start, len(self.recordings)):
                more = islice(later, FILES_AHEAD - len(ahead))
                ahead.extend(pool.submit(self._read, recording.path) for recording in more)
                recording, read = self.recordings[index], ahead.popleft().result()
                if isinstance(read, ValueError):
                    if self.strict:
                        raise read
                    yield index, Skipped(str(read))
                    continue
                sequence, frames = read
                sex = "female" if sequence.gender == "female" else "male"
                for frame in frames:
                    labels = (recording.identity, recording.dataset, recording.path.name, frame, sequence.gender)
                    yield index, Row(sex, (sequence.poses[frame], sequence.betas), labels)

    def _read(self, path: Path) -> tuple[MotionSequence, Iterable[int]] | ValueError:
        """The sequence in a file and its chosen frames, or the reason why there are none."""
        try:
            sequence = read_sequence(path, self.num_poses)
        except ValueError as error:
            return error
        try:
            return sequence, self.frames(sequence)
        except ValueError as error:
            return ValueError(f"{path}: {error}")
