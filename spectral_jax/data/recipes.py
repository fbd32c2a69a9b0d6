"""The options of the dataset recipes: records that the command line and the library share.

`posed_bodies` builds the demo and the published datasets, `registered_meshes` those of your own meshes. The command
line reads these records to show its help, so this module imports neither JAX nor TensorFlow Datasets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from spectral_jax.bodies.amass import SPLITS
from spectral_jax.geometry.mesh import MOST_BYTES, Operator
from spectral_jax.geometry.sequences import Align, Axis, Center

DEMO_DATA = Path("data/demo")


@dataclass(frozen=True, kw_only=True)
class DemoRecipe:
    """The demo dataset: free human bodies in synthetic motion, no subject in both splits."""

    out: Path = DEMO_DATA
    """Folder to create."""
    vertices: Literal[1229, 12272] = 1229
    """Number of vertices of the body."""
    modes: int = 1024
    """Number of spectral modes to keep."""
    seed: int = 0
    """Seed of the subjects and their motions; the same seed gives the same records."""
    overwrite: bool = False
    """Replace the dataset in the folder."""


@dataclass(frozen=True, kw_only=True)
class PublishedRecipe:
    """A published dataset: bodies of the SMPL-H model (or SMPL) in the motions of AMASS."""

    amass: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder with the AMASS sets in their SMPL+H version: CMU, KIT, ..., under their old or new names."""
    body_dir: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder with the SMPL-H bodies: SMPLH_MALE.pkl or .npz, or male/model.npz, and the same for female. SMPL bodies
    (SMPL_MALE, basicModel_m_lbs_...) are used if there are no others; they have no fingers."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder to create."""
    modes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of spectral modes to keep (default: 4096, or the number of vertices if that is smaller)."""
    operator: Operator = "graph"
    """Laplacian that the modes are computed from; the published networks use the graph Laplacian."""
    basis: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Basis (.npz) to use instead of computing one, such as that of a network to continue training."""
    every: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Take every N-th frame (default: 100 for AMASS, of the middle 80 % of a sequence; 1 for DFAUST)."""
    fps: Annotated[float | None, tyro.conf.arg(metavar="F")] = None
    """Take so many frames per second instead, by the frame rate of each sequence."""
    keep_root: bool = False
    """Keep the orientation of each body, with y up; the published datasets remove it."""
    allow_missing: bool = False
    """Build without the sets or identities that are missing."""
    strict: bool = False
    """Stop at a sequence file that cannot be read, instead of skipping it."""
    overwrite: bool = False
    """Replace the dataset in the folder."""


@dataclass(frozen=True, kw_only=True)
class AmassRecipe(PublishedRecipe):
    """The published AMASS dataset, or another choice of AMASS's sets."""

    train_sets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SET [SET ...]")] = SPLITS["train"]
    """Sets to train on."""
    test_sets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SET [SET ...]")] = SPLITS["test"]
    """Sets to test on."""


@dataclass(frozen=True, kw_only=True)
class MeshRecipe:
    """A dataset of registered meshes: all in one connectivity, in any folders."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder with the meshes. The first folder on a mesh's path below it is the mesh's identity."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder to create."""
    train: tuple[str, ...] = ()
    """Identities to train on, as names or patterns such as 'person1*' (default: all that are not for testing). With
    --split-by sequence or file, folders such as 'person1/smile' or '*/smile', or files below DIR."""
    test: tuple[str, ...] = ()
    """Identities to test on (default: all that are not for training, or the last --fraction of them)."""
    fraction: float = 0.2
    """Share of the identities (sequences, files, meshes) to test on if neither --train nor --test is given."""
    split_by: Literal["identity", "sequence", "file", "mesh", "slice"] = "identity"
    """What no two splits share: identities, sequences (folders of frames) or files. Or draw single meshes at random
    (mesh), or test on the last --fraction of every hundred consecutive frames (slice)."""
    seed: int = 0
    """Seed of the split by mesh."""
    template: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Mesh that gives the faces if the files have none, and the shape for --operator cotangent (default: the first)."""
    largest_group: bool = False
    """Of meshes of several connectivities, take those of the most common one; metadata.json lists the others."""
    drop_unused: bool = False
    """Leave out vertices that belong to no face, such as markers; written meshes have them where the template does."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a mesh file's size, unpacked; reading takes up to 75 times as much memory."""
    center: Center = "centroid"
    """Origin of each mesh: unchanged, its mean vertex, or the middle of its bounding box."""
    scale: float = 1.0
    """Metres per unit of the files: 0.001 for millimetres."""
    up: Axis = "y"
    """Axis of the files that points up; it becomes y in the dataset."""
    align: Align = "none"
    """Move each mesh as near to the template as a turn and a shift bring it (rigid), or those and a scale (similarity),
    so that poses of whole meshes are not learnt. Meshes that are encoded later are moved likewise."""
    modes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of spectral modes to keep (default: 4096, or the number of vertices if that is smaller)."""
    operator: Operator = "graph"
    """Laplacian that the modes are computed from."""
    basis: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Basis (.npz) to use instead of computing one."""
    overwrite: bool = False
    """Replace the dataset in the folder."""
