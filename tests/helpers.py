"""What several test modules share and no fixture is: where things lie, small datasets, and the browser."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np

from spectral_jax.files.progress import Silent

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
DOCUMENTS += [str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in p.parts]
TINY = Path(__file__).parent / "tiny"  # data, weights and figures of the PyTorch system, made with it

PEOPLE = (10, 12, 10, 12, 9)  # meshes of each identity in the fixture `people`

SOFTWARE_WEBGL = "--headless=new --no-sandbox --disable-gpu --use-gl=angle --use-angle=swiftshader"
SILENT = "--no-first-run --disable-quic --disable-background-networking --disable-component-update --disable-sync"
CHROMIUM = f"{SOFTWARE_WEBGL} --enable-unsafe-swiftshader {SILENT}"


def chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def bumpy_spheres(sphere, count, seed):
    """Meshes (count, vertex, 3): the sphere stretched, bent and bumped by four numbers each."""
    rng = np.random.default_rng(seed)
    x = sphere.vertices[None]
    a, b, c, d = rng.uniform(-0.5, 0.5, (4, count, 1))
    y = np.stack(
        [x[..., 0] * (1 + a) + b * x[..., 1] ** 2, x[..., 1] + c * np.sin(3 * x[..., 2]), x[..., 2] * (1 + d)], -1
    )
    return y.astype(np.float32)


def sphere_examples(sphere, basis, count, seed, keep_vertices):
    from spectral_jax.basis.spectral import project
    from spectral_jax.data.dataset import Example

    for i, vertices in enumerate(bumpy_spheres(sphere, count, seed)):
        kept = vertices if keep_vertices else None
        yield Example(np.asarray(project(basis, vertices)), kept, f"id{seed}", "Spheres", f"{i:03d}.ply", i, "neutral")


def write_2026(root, data):
    """The dataset in the published layout of 2026; the folder that holds it."""
    folder = root / "Datasets" / "DEMO"
    folder.mkdir(parents=True)
    np.savetxt(root / "smpl_faces.txt", data.basis.faces, fmt="%d")
    np.save(root / "evecs_GL_1229.npy", data.basis.modes)
    (folder / "infos.json").write_text(json.dumps({"train": ["s000"], "vald": ["s001"]}))
    for name, examples in (("train", data.splits["train"]), ("vald", data.splits["test"])):
        names = ("identity", "dataset", "file", "frame_idx", "gender")
        infos = [dict(zip(names, example[2:], strict=True)) for example in examples]
        (folder / f"{name}_infos.json").write_text(json.dumps(infos, indent=4))
        np.save(folder / f"{name}_coeffs.npy", np.stack([example.coefficients for example in examples]))
    np.save(folder / "vald_vertices.npy", np.stack([example.vertices for example in data.splits["test"]]))
    return folder


def contents(folder):
    """The bytes of each file in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_glb(path):
    """The JSON and the buffer of a .glb, read by the specification alone."""
    content = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", content[:12])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size, kind = struct.unpack("<I4s", content[12:20])
    assert kind == b"JSON"
    assert size % 4 == 0
    rest, kind = struct.unpack("<I4s", content[20 + size : 28 + size])
    assert kind == b"BIN\0"
    assert rest == len(content) - 28 - size
    return json.loads(content[20 : 20 + size]), content[28 + size :]


def glb_array(document, buffer, index):
    """An array of a .glb."""
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    data = buffer[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
    values = np.frombuffer(data, {5126: "<f4", 5125: "<u4"}[accessor["componentType"]])
    return values.reshape(-1, 3) if accessor["type"] == "VEC3" else values


class Interrupting(Silent):
    """Progress that raises an error, as Ctrl-C would, when a build has written so many meshes of a split."""

    def __init__(self, meshes, error=KeyboardInterrupt):
        self.meshes, self.error = meshes, error

    def update(self, task, done, total=None, note=""):
        if task.startswith("building") and meshes_written(note) == self.meshes:
            raise self.error


def meshes_written(note):
    """The number of meshes in the note of a build, such as "1,024 meshes, 120 meshes/s"."""
    return int(note.split()[0].replace(",", ""))


class Counted(Silent):
    """Progress that keeps how much it was told is done."""

    def __init__(self):
        self.done = []

    def update(self, task, done, total=None, note=""):
        self.done.append(done)


class Stopping(Silent):
    """Progress whose answers to `should_stop` are given."""

    def __init__(self, answers):
        self.answers = iter(answers)

    def should_stop(self):
        return next(self.answers)


def smpl_arrays(arrays, num_betas=10):
    """An SMPL body of 24 joints from one of SMPL-H: the fingers of each hand become one joint."""
    rows = [*range(22), 22, 37]
    weights = [arrays["weights"][:, :22], *(arrays["weights"][:, a : a + 15].sum(1, keepdims=True) for a in (22, 37))]
    corrections = np.concatenate([arrays["posedirs"][:, :, :189], np.zeros_like(arrays["posedirs"][:, :, :18])], axis=2)
    return {
        "v_template": arrays["v_template"],
        "f": arrays["f"],
        "weights": np.concatenate(weights, axis=1),
        "shapedirs": arrays["shapedirs"][:, :, :num_betas],
        "posedirs": corrections,
        "J_regressor": arrays["J_regressor"][rows],
        "kintree_table": np.stack([[*arrays["kintree_table"][0, :22], 20, 21], np.arange(24)]),
    }
