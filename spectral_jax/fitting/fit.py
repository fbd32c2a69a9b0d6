"""Fit a trained network to a scan: from many starts, coarse to fine; each round finds the closest points anew."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.fitting import step
from spectral_jax.fitting.closest import near_faces
from spectral_jax.fitting.step import Fit, Strength, Target
from spectral_jax.geometry.alignment import Similarity, align
from spectral_jax.network import density
from spectral_jax.network.codec import Codec
from spectral_jax.network.density import Gaussian

LEAST_POINTS = 50  # of a scan
NUM_TURNS = 12  # starts that are turned about the vertical axis
NUM_TYPICAL = 32  # shapes that fits start from, beside the mean
LATENTS_PER_START = 16  # of which a typical shape is the mean, at least
NUM_SCORED = 256  # points by which starts are compared
NUM_STARTS, NUM_FINALISTS = 48, 6  # starts that are tried coarsely, and those of them that are fitted to the end
APART = 0.02  # mean distance of the vertices of two finalists, in diagonals, at least
HOPELESS = 4.0  # times the smallest error after the coarse fit: beyond, none has become the best
NEAR = 8  # faces near a point, among which the closest point is searched


class Level(NamedTuple):
    """A level of the fit: points and modes that are used, most rounds, strength of the prior and of the landmarks.

    The prior is in squares of the mean shape's diagonal.
    """

    points: int
    modes: int
    rounds: int
    prior: float
    landmarks: float


COARSE = Level(512, 128, 12, 5e-6, 1.0)
# Of priors of 1e-8 to 2e-7 square metres all fitted bodies of the demo equally well.
FINE = Level(4096, 1024, 25, 5e-8, 0.05)
MOVED = 2e-5  # largest motion of a vertex in a round, in diagonals, below which a fit has converged
ELASTIC = 1e-3  # found on one bump on a tenth of a surface
REFINE_ROUNDS = 5
STEPS = 2  # for the same near faces


class Prior(NamedTuple):
    """What is known of a network's latents: their Gaussian, and codes of typical shapes, which fits start from."""

    density: Gaussian
    typical: Float[np.ndarray, "start component"]


class FittedScan(NamedTuple):
    """A network's shape fitted to a scan: x -> scale * rotation @ x + translation turns it into the scan's coordinates.

    Attributes:
      vertices: in the scan's coordinates.
      latent: what the shape is decoded from.
      residual: added to the lowest coefficients of the decoded shape.
      pose: rotation, translation and scale.
      error: what was minimised, square metres; of several fits of a scan the smallest is the best.
    """

    vertices: Float[np.ndarray, "vertex 3"]
    latent: Float[np.ndarray, "latent"]
    residual: Float[np.ndarray, "low 3"]
    pose: Similarity
    error: float


def fit_prior(latents: Float[np.ndarray, "mesh latent"]) -> Prior:
    """The Gaussian of latents and the middles of their clusters (k-means); few latents have but their mean.

    Raises ValueError for under 2 latents.
    """
    from sklearn.cluster import KMeans

    gaussian = density.fit_gaussian(latents)
    codes = (latents - gaussian.mean) @ np.linalg.pinv(np.asarray(gaussian.factor)).T
    typical = np.zeros((1, codes.shape[1]), np.float32)
    if len(codes) >= LATENTS_PER_START * NUM_TYPICAL:
        middles = KMeans(NUM_TYPICAL, random_state=0).fit(codes).cluster_centers_
        typical = np.concatenate([typical, middles.astype(np.float32)])
    return Prior(gaussian, typical)


def fit_scan(
    codec: Codec,
    prior: Prior,
    points: Float[np.ndarray, "point 3"],
    landmarks: Int[np.ndarray, "landmark"] | None = None,
    places: Float[np.ndarray, "place 3"] | None = None,
    *,
    scaled: bool = False,
    refine_modes: int = 0,
    progress: Progress = SILENT,
) -> FittedScan:
    """Fit a network to points of a surface in metres: latent, rotation and translation, and the scale if `scaled`.

    `prior` is what `fit_prior` makes of latents of the train split. The points may be in any pose and noisy, and parts
    may be missing: only distances from the points to the fitted surface count.
    `places` are the points of some vertices, `landmarks`, roughly. With `refine_modes`, that number of the lowest modes
    follow the points beyond what the network can decode. Equal points give equal fits. Raises ValueError for under 50
    points, values that are not finite, and unusable landmarks or modes.
    """
    points, basis = np.asarray(points, np.float64), codec.require_basis()
    landmarks = np.zeros(0, np.int32) if landmarks is None else np.asarray(landmarks, np.int32)
    places = np.zeros((0, 3)) if places is None else np.asarray(places, np.float64)
    _check(points, landmarks, places, basis.num_vertices)
    if not 0 <= refine_modes <= basis.num_modes:
        raise ValueError(f"{refine_modes} modes to refine, the network has {basis.num_modes}")
    centre = points.mean(axis=0)
    order = np.random.default_rng(0).permutation(len(points))
    chosen = (points[np.resize(order, FINE.points)] - centre).astype(np.float32)
    at = places - centre
    fitter = _Fitter(codec, prior, landmarks, at.astype(np.float32), scaled, progress)
    starts = fitter.starts(chosen, at)
    coarse, errors = fitter.run(starts, chosen, COARSE, "trying poses")
    finalists = _distinct(fitter.posed(coarse, COARSE.modes), errors, APART * fitter.size)
    fine, errors = fitter.run(jax.tree.map(lambda x: np.asarray(x)[finalists], coarse), chosen, FINE, "fitting")
    best = int(np.argmin(errors))
    fit = jax.tree.map(lambda x: np.asarray(x)[[best]], fine)
    if refine_modes:
        fit = fitter.refine(fit, chosen, refine_modes)
    vertices = np.asarray(step.posed(codec, fitter.prior, fit, basis.num_modes))[0] + centre
    code, residual, rotation, translation, scale = (np.asarray(x[0]) for x in fit)
    pose = Similarity(rotation.astype(np.float64), translation + centre, float(scale))
    latent = np.asarray(prior.density.mean) + np.asarray(prior.density.factor) @ code
    return FittedScan(vertices, latent, residual, pose, float(errors[best]))


def _check(points: np.ndarray, landmarks: np.ndarray, places: np.ndarray, num_vertices: int) -> None:
    """Raise ValueError unless there are enough finite points, and landmarks of existing vertices."""
    if len(points) < LEAST_POINTS:
        raise ValueError(f"{len(points)} points, a fit needs at least {LEAST_POINTS}")
    for what, values in (("points", points), ("landmarks", places)):
        if wrong := int((~np.isfinite(values).all(axis=1)).sum()):
            raise ValueError(f"{wrong} of {len(values)} {what} are not finite")
    if len(landmarks) != len(places):
        raise ValueError(f"{len(landmarks)} vertices and {len(places)} places of landmarks")
    if len(landmarks) and not 0 <= landmarks.min() <= landmarks.max() < num_vertices:
        raise ValueError(f"landmarks name vertices {landmarks.min()} to {landmarks.max()} of {num_vertices}")


class _Fitter:
    """Fits batches of shapes and poses to the points of one scan, centred."""

    def __init__(
        self,
        codec: Codec,
        prior: Prior,
        landmarks: np.ndarray,
        places: np.ndarray,
        scaled: bool,
        progress: Progress,
    ):
        self.codec, self.prior = codec, jax.device_put(prior.density)
        self.landmarks, self.places, self.scaled, self.progress = landmarks, places, scaled, progress
        self.faces, self.typical = np.asarray(codec.require_basis().faces), prior.typical
        count = len(self.typical)
        upright = self.poses(np.arange(count), np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 3)), np.ones(count))
        self.shapes = self.posed(upright, FINE.modes).astype(np.float64)
        self.size = float(np.linalg.norm(np.ptp(self.shapes[0], axis=0)))

    def posed(self, fit: Fit, modes: int) -> np.ndarray:
        """Vertices of the first modes, or all."""
        return np.asarray(step.posed(self.codec, self.prior, fit, min(modes, self.codec.model.config.modes)))

    def poses(self, shapes: np.ndarray, rotations: np.ndarray, translations: np.ndarray, scales: np.ndarray) -> Fit:
        """Typical shapes in these poses."""
        residual = np.zeros((len(shapes), 0, 3), np.float32)
        return Fit(self.typical[shapes], residual, *(x.astype(np.float32) for x in (rotations, translations, scales)))

    def starts(self, points: np.ndarray, places: np.ndarray) -> Fit:
        """The typical shapes in the poses that bring them nearest to the points, or their landmarks to their places."""
        if len(places) >= 3:
            found = [align(shape[self.landmarks], places, self.scaled) for shape in self.shapes]
            rotations, translations, scales = (np.array(x) for x in zip(*found, strict=True))
            return self.poses(np.arange(len(found)), rotations, translations, scales)
        scored: list[tuple[float, int, np.ndarray, np.ndarray, float]] = []
        some = points[:NUM_SCORED]
        for index, shape in enumerate(self.shapes):
            middle = shape.mean(axis=0)
            spread = np.square(some).sum(axis=1).mean() / np.square(shape - middle).sum(axis=1).mean()
            scale = float(np.sqrt(spread)) if self.scaled else 1.0
            rotations = _orientations(points, shape)
            back = np.einsum("bij,pi->bpj", rotations, some) / scale + middle
            distances = KDTree(shape).query(back.reshape(-1, 3))[0].reshape(len(rotations), -1)
            off = np.minimum(distances, 0.1 * self.size).mean(axis=1)
            scored += [(float(e), index, r, -scale * r @ middle, scale) for e, r in zip(off, rotations, strict=True)]
        best = sorted(scored, key=lambda start: start[0])[:NUM_STARTS]
        _, shapes, rotations, translations, scales = (np.array(x) for x in zip(*best, strict=True))
        return self.poses(shapes, rotations, translations, scales)

    def run(self, fit: Fit, points: np.ndarray, level: Level, task: str) -> tuple[Fit, np.ndarray]:
        """Rounds of near faces and steps until nothing moves, at most those of the level; and the errors."""
        target = self.target(points[: level.points], len(fit.scale))
        strength = Strength(level.prior * self.size**2, level.landmarks, ELASTIC)
        modes, errors = min(level.modes, self.codec.model.config.modes), np.zeros(len(fit.scale))
        vertices = self.posed(fit, modes)
        for done in range(level.rounds):
            self.progress.update(task, done, level.rounds)
            near = self.near(vertices, target)
            for _ in range(STEPS):
                fit, errors = step.improve(self.codec, self.prior, fit, target, near, strength, modes, self.scaled)
            before, vertices = vertices, self.posed(fit, modes)
            if np.abs(vertices - before).max() < MOVED * self.size:
                break
        self.progress.update(task, level.rounds, level.rounds)
        return fit, np.nan_to_num(np.asarray(errors), nan=np.inf)

    def refine(self, fit: Fit, points: np.ndarray, count: int) -> Fit:
        """Let the lowest modes follow the points."""
        target, modes = self.target(points, 1), self.codec.model.config.modes
        strength = Strength(FINE.prior * self.size**2, FINE.landmarks, ELASTIC)
        fit = fit._replace(residual=np.zeros((1, count, 3), np.float32))
        for done in range(REFINE_ROUNDS):
            self.progress.update("refining", done, REFINE_ROUNDS)
            near = self.near(self.posed(fit, modes), target)
            fit = step.refine(self.codec, self.prior, fit, target, near, strength, modes)
        self.progress.update("refining", REFINE_ROUNDS, REFINE_ROUNDS)
        return fit

    def target(self, points: np.ndarray, count: int) -> Target:
        """The points and landmarks, for each of a batch."""
        parts = points, self.landmarks, self.places
        return Target(*(np.broadcast_to(x, (count, *x.shape)) for x in parts))

    def near(self, vertices: np.ndarray, target: Target) -> np.ndarray:
        """The faces near each point, for each of a batch."""
        pairs = zip(vertices, np.asarray(target.points), strict=True)
        return np.stack([near_faces(shape, self.faces, points, NEAR) for shape, points in pairs])


def _orientations(points: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Rotations to start from: about the vertical, of principal axes to principal axes, and spread over all."""
    angles = np.arange(NUM_TURNS) * (2 * np.pi / NUM_TURNS)
    upright = Rotation.from_rotvec(np.outer(angles, (0, 1, 0))).as_matrix()
    axes, own = (np.linalg.eigh(np.cov(x.T.astype(np.float64)))[1] for x in (points, mean))
    axes[:, 0] *= np.sign(np.linalg.det(axes) * np.linalg.det(own))
    principal = axes @ Rotation.create_group("O").as_matrix() @ own.T
    return np.concatenate([upright, principal, Rotation.create_group("I").as_matrix()])


def _distinct(shapes: np.ndarray, errors: np.ndarray, apart: float) -> list[int]:
    """The indices of the smallest errors whose shapes are apart; filled up with the best, so batches are the same."""
    kept: list[int] = []
    for index in np.argsort(errors, kind="stable"):
        distances = [np.linalg.norm(shapes[index] - shapes[other], axis=1).mean() for other in kept]
        hopeful = errors[index] <= HOPELESS * errors.min()
        if hopeful and min(distances, default=np.inf) >= apart and len(kept) < NUM_FINALISTS:
            kept.append(int(index))
    return (kept + kept[:1] * NUM_FINALISTS)[: min(NUM_FINALISTS, len(errors))]
