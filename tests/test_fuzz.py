"""Mutated files of every kind that is read: each loads, or is refused by a ValueError that names it, fast and small."""

import argparse
import base64
import functools
import gzip
import io
import json
import pickle
import pickletools
import random
import re
import resource
import struct
import tarfile
import time
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from helpers import TINY, sphere_examples, write_2026
from torch_archives import TREE, archive, integer, legacy, safetensors, tensor, values, written

from spectral_jax.basis import raw, spectral
from spectral_jax.bodies import motion, smplh
from spectral_jax.data import dataset, writer
from spectral_jax.data.pytorch_layouts import open_pytorch_layout
from spectral_jax.files import torch_file
from spectral_jax.geometry import sequences
from spectral_jax.geometry.mesh import Mesh, read_mesh, write_mesh
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.pytorch import lightning
from spectral_jax.runs import bundle, logs, run
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.schedule import Plateau
from spectral_jax.training.state import TrainingProgress, TrainState

MEMORY, SECONDS = 96 << 20, 5.0  # for an input of some hundred kilobytes
EXTREMES = [0, 1, 2, 3, 8, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, -1, -(2**63), 2**200]


# Mutations.


def mutate(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to three accidents: flipped bits, cuts, insertions, repetitions, pieces of another file, large numbers."""
    for _ in range(rng.randint(1, 3)):
        i, piece = rng.randrange(len(content) + 1), rng.randrange(len(other))
        j = min(len(content), i + rng.choice([1, 2, 4, 8, 40]))
        before, cut, after = content[:i], content[i:j], content[j:]
        extreme = rng.choice([b"\xff" * 4, b"\xff" * 8, b"\0\0\0\x80", b"\0" * 8])
        opcode = bytes([rng.choice(b"(.012Rbtue}]sahjqrcQ)N\x85\x86\x87\x8a\x93\x94\x8f\x90X")])
        accidents = [
            before + bytes(byte ^ 1 << rng.randrange(8) for byte in cut[:1]) + cut[1:] + after,
            before + rng.randbytes(j - i) + after,
            before + after,
            before,
            before + rng.randbytes(rng.randint(1, 8)) + cut + after,
            before + cut * rng.randint(2, 20) + after,
            before + other[piece : piece + rng.randint(1, 60)] + after,
            before + extreme + after,
            before + opcode + cut + after,
        ]
        content = rng.choice(accidents)
    return content


def opcodes(pickled: bytes) -> list[bytes]:
    """A pickle cut into its opcodes, each with its argument."""
    starts = [position for _, _, position in pickletools.genops(pickled)]
    return [pickled[i:j] for i, j in zip(starts, [*starts[1:], len(pickled)], strict=True)]


def mutate_opcodes(pickled: bytes, other: bytes, rng: random.Random) -> bytes:
    """As `mutate`, at the seams of the opcodes, so that the pickle stays one for longer."""
    content, pieces = opcodes(pickled)[:-1], opcodes(other)[:-1]
    for _ in range(rng.randint(1, 2)):
        i, k = rng.randrange(len(content) + 1), rng.randrange(len(pieces))
        j = i + rng.randint(1, 8)
        before, cut, after = content[:i], content[i:j], content[j:]
        number = rng.choice([n for n, opcode in enumerate(content) if opcode[:1] in b"KMJ"] or [0])
        accidents = [
            [*before, pieces[k], *cut, *after],
            [*before, pieces[k], *cut[1:], *after],
            [*content[:number], integer(rng.choice(EXTREMES)), *content[number + 1 :]],
            before + cut[::-1] + after,
            before + cut[:1] * rng.randint(2, 50) + cut[1:] + after,
            before + pieces[k : k + rng.randint(0, 20)] + after,
            cut + before + after,
        ]
        content = rng.choice(accidents)
    return b"".join(content) + b"."


def mutate_words(content: bytes, rng: random.Random) -> bytes:
    """A number or a word of a text becomes another, at one to four places; or a line goes or comes twice."""
    for _ in range(rng.randint(1, 4)):
        words = list(re.finditer(rb"[^\s,:\[\]{}]+", content))
        if not words:
            return content
        word = rng.choice(words)
        other = rng.choice([*(str(n).encode() for n in EXTREMES), *WORDS, rng.choice(words)[0]])
        i, j = word.span()
        line = content.rfind(b"\n", 0, i) + 1, content.find(b"\n", i) + 1 or len(content)
        accidents = [
            content[:i] + other + content[j:],
            content[:i] + other + content[j:],
            content[: line[0]] + content[line[1] :],
            content[: line[1]] + content[line[0] :],
            content[:i] + b" " + content[i:],
        ]
        content = rng.choice(accidents)
    return content


WORDS = [
    *(b"nan", b"-inf", b"1e400", b"-0.0", b"", b"x", b"null", b"true", b'"', b"[]", b"{}", b"\0", b"\xff\xfe", b"#"),
    *(b"9" * 5000, b"[" * 100_000, b"\\u0000", b"\r", b"\\", b'"\\ud800"', b"\xe2\x80\xa8", b"-1/2/3", b"4 0 1 2 3"),
]
ODD = [
    *(None, True, 0, -1, 3, 2**31, 2**70, 0.5, -1.0, 1e300, float("nan"), float("inf"), "", "x", "\ud800\n", [], {}),
    *([[]], [1, 2], {"a": 1}, [None] * 3),
]


def mutate_tree(tree: Any, rng: random.Random, odd: list) -> Any:
    """A value somewhere in dicts and lists becomes an odd one, or goes, or moves; the tree itself stays as it is."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key, other = rng.choice(list(tree)), rng.choice(list(tree))
        changed = type(tree)(tree)
        match rng.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[key] = tree[other]
            case 2:
                changed[rng.choice([key, "x", "\n"])] = rng.choice(odd)
            case _:
                changed[key] = mutate_tree(tree[key], rng, odd)
        return changed
    if isinstance(tree, list | tuple) and tree and rng.random() < 0.9:
        i = rng.randrange(len(tree))
        changed = [*tree[:i], mutate_tree(tree[i], rng, odd), *tree[i + 1 :]]
        changed = rng.choice([changed, changed, changed[:i] + changed[i + 1 :], changed * 2])
        return type(tree)(changed)
    return rng.choice(odd)


def mutate_json(value: Any, rng: random.Random) -> bytes:
    """JSON with an odd value in it, or spoilt as a text or as bytes."""
    content = json.dumps(value).encode()
    match rng.randrange(4):
        case 0:
            return mutate(content, content, rng)
        case 1:
            return mutate_words(content, rng)
        case _:
            return json.dumps(mutate_tree(value, rng, ODD)).encode()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as target, warnings.catch_warnings(action="ignore"):
        for name, content in members:
            target.writestr(f"{name}.npy", content)
    return stream.getvalue()


def odd_arrays(array: np.ndarray, rng: random.Random) -> list[Any]:
    """What may stand in the place of an array."""
    changed = array.copy()
    if array.size and array.dtype.kind in "fiu":
        place = rng.randrange(array.size)
        extremes = [np.nan, np.inf, -1e300, 1e30] if array.dtype.kind == "f" else [-1, 0, 2**31 - 1, 127]
        with np.errstate(all="ignore"):
            changed.flat[place] = np.array(rng.choice(extremes)).astype(array.dtype)
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        numbers = np.zeros(array.shape, array.dtype if array.dtype.kind in "fiu" else np.float32)
        return [
            changed, changed, array[..., :-1] if array.ndim else array[None], array[:0] if array.ndim else array[None],
            array.T, array[None], np.concatenate([array, array]) if array.ndim else np.zeros(3), numbers,
            np.asfortranarray(array), numbers.astype(rng.choice(["f2", "f8", ">f4", "i1", "u8", "c8", "?", "S3"])),
            np.array([{}] * 3), np.array("x\n\0y"), np.array(b"\xff\xfe"), np.array(["a", "b"]), np.array(3),
            np.zeros(3, "M8[s]"), np.zeros(2, [("a", "f4")]), np.float64(1e300), np.zeros((2, 0, 3), "f4"),
        ]  # fmt: skip


def mutate_npy(array: np.ndarray, rng: random.Random) -> bytes:
    """A .npy file of an odd array, of a changed header, or with accidents."""
    content = npy(array)
    match rng.randrange(4):
        case 0:
            return mutate(content, content, rng)
        case 1:
            numbers = list(re.finditer(rb"\d+", content[: content.index(b"\n")])) or [re.match(rb"", content)]
            i, j = rng.choice(numbers).span()
            return content[:i] + str(rng.choice(EXTREMES)).encode() + content[j:]
        case 2:
            return mutate_words(content[: content.index(b"\n")], rng) + content[content.index(b"\n") :]
        case _:
            return npy(rng.choice(odd_arrays(array, rng)))


def mutate_npz(arrays: dict[str, np.ndarray], rng: random.Random) -> bytes:
    """An .npz file with accidents in the archive, in its directory, or in a member."""
    members = [(name, npy(array)) for name, array in arrays.items()]
    compression = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    i, j = rng.randrange(len(members)), rng.randrange(len(members))
    name = members[i][0]
    match rng.randrange(8):
        case 0:
            whole = npz(members, compression)
            return mutate(whole, whole, rng)
        case 1:  # fields of the directory
            whole = bytearray(npz(members, compression))
            entry = rng.choice([match.start() for match in re.finditer(rb"PK\x01\x02", whole)])
            place, size = rng.choice([(10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)])
            whole[entry + place : entry + place + size] = (rng.choice(EXTREMES) % 256**size).to_bytes(size, "little")
            return bytes(whole)
        case 2:
            return npz(members[:i] + members[i + 1 :], compression)
        case 3:
            return npz([*members, (name, members[j][1])], rng.choice([compression, zipfile.ZIP_BZIP2]))
        case 4:
            return npz([*members[:i], (name, members[j][1]), *members[i + 1 :]], compression)
        case _:
            return npz([*members[:i], (name, mutate_npy(arrays[name], rng)), *members[i + 1 :]], compression)


def mutate_tar(members: list[tuple[str, bytes]], rng: random.Random) -> bytes:
    """A tar with accidents in the archive, in a header, or in a member."""
    i, j = rng.randrange(len(members)), rng.randrange(len(members))
    name, content = members[i]
    match rng.randrange(7):
        case 0:
            whole = tar(members)
            return mutate(whole, whole, rng)
        case 1:  # a header, its checksum right
            whole = bytearray(tar(members))
            start = rng.choice([k for k in range(0, len(whole), 512) if whole[k + 257 : k + 262] == b"ustar"])
            places = [(0, rng.randbytes(8)), (124, f"{rng.choice(EXTREMES) % 8**11:011o}\0".encode())]
            place, field = rng.choice([*places, (156, rng.choice([b"x", b"L", b"1", b"5", b"S", b"\0"]))])
            whole[start + place : start + place + len(field)] = field
            whole[start + 148 : start + 156] = b" " * 8
            whole[start + 148 : start + 156] = f"{sum(whole[start : start + 512]):06o}\0 ".encode()
            return bytes(whole)
        case 2:
            return tar(members[:i] + members[i + 1 :])
        case 3:
            return tar([*members, members[i]])
        case 4:
            return tar([*members[:i], (name, members[j][1]), *members[i + 1 :]])
        case _:
            if name.endswith(".json"):
                content = mutate_json(json.loads(content), rng)
            elif rng.random() < 0.5:
                content = written(rng.choice([*odd_tensors(torch_file.load(content), rng), {}, [1]]))
            else:
                content = mutate(content, members[j][1], rng)
            return tar([*members[:i], (name, content), *members[i + 1 :]])


def odd_tensors(array: Any, rng: random.Random) -> list[np.ndarray]:
    """Of the odd arrays, those that are tensors."""
    odd = [np.asarray(other) for other in odd_arrays(array, rng)]
    return [other for other in odd if other.dtype.kind in "fiuc?" and other.dtype != np.uint64]


def tar(members: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as target:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))
    return stream.getvalue()


# The kinds of files: what writes a mutated one, and what reads it.


class Kind(NamedTuple):
    write: Callable[[random.Random], Any]
    read: Callable[[], Any]


def pth(folder: Path) -> Kind:
    """A third whole, a third with the pickle, a third with its opcodes mutated in a sound archive."""
    arrays = [TREE, {"w": values((5,), np.dtype("u2")), "b": values((2, 2), np.dtype(ml_dtypes.bfloat16))}]
    plain = [
        [np.float64(1.5), b"bytes"],
        {1, 2, "three"},
        {"a": (1, [2, 3.0, None]), "b": OrderedDict(c=True)},
        [np.arange(6.0).reshape(2, 3), np.ones(2, ">f4"), argparse.Namespace(rate=0.1, out=PurePosixPath("/a"))],
        [
            functools.partial(max, 1, key=len),
            defaultdict(int, a=1),
            frozenset({1}),
            np.array(["a"]),
            1j,
            bytearray(b"a"),
        ],
    ]
    cases = [(pickle.dumps(tree, protocol), {}) for tree in plain for protocol in (2, 4, 5)]
    views = b"\x80\2](" + tensor((3, 4), (4, 1), 0, 12) + tensor((4,), (3,), 2, 12) + b"e."
    cases.append((views, {"0": bytes(48)}))
    for tree in arrays:
        with zipfile.ZipFile(io.BytesIO(written(tree))) as target:
            records = {name.removeprefix("archive/"): target.read(name) for name in target.namelist()}
        storages = {name[5:]: record for name, record in records.items() if name[:5] == "data/"}
        cases.append((records["data.pkl"], storages))
    pickles, files, path = [pickled for pickled, _ in cases], [archive(*case) for case in cases], folder / "a.pth"

    def write(rng: random.Random) -> None:
        how = rng.choice([None, mutate, mutate_opcodes])
        if how is None:
            path.write_bytes(mutate(rng.choice(files), rng.choice(files), rng))
            return
        pickled, storages = rng.choice(cases)
        path.write_bytes(archive(how(pickled, rng.choice(pickles), rng), storages))

    return Kind(write, lambda: list(torch_file.describe(torch_file.load(path))))


def older_pth(folder: Path) -> Kind:
    """The format of torch before 1.6."""
    views = b"(" + tensor((3, 4), (4, 1), 0, 12) + tensor((4,), (3,), 2, 12) + b"t"
    named = b"}" + b"X\1\0\0\0w" + tensor((12,), (1,), 0, 12) + b"s"
    pickles, path = [b"\x80\2" + value + b"." for value in (views, named)], folder / "a.pth"

    def write(rng: random.Random) -> None:
        pickled = mutate_opcodes(rng.choice(pickles), rng.choice(pickles), rng) if rng.random() < 0.5 else pickles[0]
        whole = legacy(pickled[2:-1], np.arange(12, dtype="<f4"))
        path.write_bytes(whole if pickled is not pickles[0] else mutate(whole, whole, rng))

    return Kind(write, lambda: torch_file.load(path))


def tensors_file(folder: Path) -> Kind:
    """A .safetensors file."""
    arrays, path = {name: values((2, 3), np.dtype(name)) for name in ("float32", "bool", "bfloat16")}, folder / "a"
    whole = safetensors(arrays)
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def write(rng: random.Random) -> None:
        text = mutate_json(header, rng)
        spoilt = len(text).to_bytes(8, "little") + text + whole[8 + length :]
        path.write_bytes(spoilt if rng.random() < 0.7 else mutate(whole, whole, rng))

    return Kind(write, lambda: torch_file.load(path))


def position() -> TrainingProgress:
    """Of the smallest network."""
    import jax

    params = jax.device_get(init_params(ModelConfig(4, 1, 1), jax.random.key(0)))
    import optax

    count, zeros = np.array(3, np.int32), jax.tree.map(np.zeros_like, params)
    return TrainingProgress(TrainState(params, optax.ScaleByAdamState(count, zeros, zeros), count), Plateau(1e-4), 1)


def ckpt(folder: Path) -> Kind:
    path, odd = folder / "last.ckpt", [value for value in ODD if value != "\ud800\n"]
    odd += [np.zeros((2, 3)), np.full((), 2, np.float32), np.ones(3, np.int64), np.full(4, np.nan), (1, 2), ()]
    tree = lightning.lightning_from_checkpoint(position(), TrainConfig(), "job")
    whole = written(tree)

    def write(rng: random.Random) -> None:
        path.write_bytes(written(mutate_tree(tree, rng, odd)) if rng.random() < 0.8 else mutate(whole, whole, rng))

    return Kind(write, lambda: lightning.read_checkpoint(path))


class Module:
    """Pickled as torch pickles its modules; those who read it know it by name alone."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.training, self._buffers, self._non_persistent_buffers_set = True, {"cache": np.zeros(2)}, {"cache"}
        self._parameters = {name: array for name, array in weights.items() if "." not in name}
        heads = dict.fromkeys(name.split(".")[0] for name in weights if "." in name)
        self._modules = OrderedDict(
            (head, Module({name[len(head) + 1 :]: w for name, w in weights.items() if name.startswith(f"{head}.")}))
            for head in heads
        )


def module_pth(folder: Path) -> Kind:
    """A whole module of the smallest network, mutated as a pickle; or one with odd values in its state."""
    weights, path = lightning.state_dict_from_params(position().state.params), folder / "a.pt"
    weights = {name: np.asarray(array) for name, array in weights.items()}
    trees = [Module(weights), {"net": Module({f"net.{name}": w for name, w in weights.items()}), "epoch": 3}]
    pickles = [pickle.dumps(tree, protocol) for tree in trees for protocol in (2, 4)]

    def write(rng: random.Random) -> None:
        if rng.random() < 0.5:
            pickled = rng.choice([mutate, mutate_opcodes])(rng.choice(pickles), rng.choice(pickles), rng)
        else:
            spoilt = Module(weights)
            part = rng.choice([spoilt, *spoilt._modules.values()])
            for _ in range(rng.randint(1, 2)):
                name = rng.choice(list(vars(part)))
                odd = [*ODD[:-4], part, spoilt, np.zeros((2, 3)), {"a": spoilt}, OrderedDict({(): part, "b": 1})]
                setattr(part, name, mutate_tree(getattr(part, name), rng, odd))
            pickled = pickle.dumps(spoilt, rng.choice([2, 4]))
        path.write_bytes(archive(pickled))

    return Kind(write, lambda: lightning.read_weights(path))


def infos(folder: Path) -> Kind:
    torch_file.save(folder / "a.pth", lightning.state_dict_from_params(position().state.params))
    options = json.loads((TINY / "infos.json").read_text())
    options |= {"nb_freq": 4, "size_latent": 1, "size_conv": 1}
    path = folder / "infos.json"
    return Kind(
        lambda rng: path.write_bytes(mutate_json(options, rng)), lambda: lightning.read_checkpoint(folder / "a.pth")
    )


def small(folder: Path, num_modes: int = 8) -> dataset.Data:
    """A dataset of three and two meshes of 42 vertices."""
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=1)
    mesh = Mesh(np.asarray(sphere.vertices, np.float32), np.asarray(sphere.faces, np.int32))
    basis = spectral.compute(mesh.faces, 42, num_modes)
    splits = {name: list(sphere_examples(mesh, basis, 3, 1, name == "test")) for name in ("train", "test")}
    return dataset.open_prepared(writer.write(folder / "small", basis, mesh, splits, {"recipe": "test"}))


def read_all(root: Path) -> None:
    for split in open_pytorch_layout(root).splits.values():
        list(split)


def layout_2022(folder: Path) -> Kind:
    data, root = small(folder), folder / "root"
    (root / "DEMO").mkdir(parents=True)
    np.savetxt(root / "mesh.triv", data.basis.faces, fmt="%d")
    (root / "mesh.evecs_42").write_bytes(npy(np.asarray(data.basis.modes)))
    members: dict[str, list[tuple[str, bytes]]] = {}
    for name, split in data.splits.items():
        for i, example in enumerate(split):
            labels = {"identity": "a", "dataset": "b", "file": "c", "frame_idx": i, "gender": "male"}
            parts = [("infos.json", json.dumps(labels).encode()), ("coeffs.pth", written(example.coefficients))]
            if example.vertices is not None:
                parts.append(("vertices.pth", written(example.vertices)))
            members.setdefault(name, []).extend((f"{i:06d}.{suffix}", content) for suffix, content in parts)

    def write(rng: random.Random) -> None:
        spoilt = rng.choice(list(members))
        for name in members:
            content = mutate_tar(members[name], rng) if name == spoilt else tar(members[name])
            (root / "DEMO" / f"{name}.tar").write_bytes(content)

    return Kind(write, lambda: read_all(root))


def layout_2026(folder: Path) -> Kind:
    root, demo = folder / "root", write_2026(folder / "root", small(folder))
    paths = [*sorted(demo.iterdir()), root / "smpl_faces.txt", root / "evecs_GL_1229.npy"]
    sound = {path: path.read_bytes() for path in paths}

    def write(rng: random.Random) -> None:
        spoilt = rng.choice(paths)
        for path, content in sound.items():
            if path == spoilt and path.suffix == ".npy":
                content = mutate_npy(np.load(io.BytesIO(content)), rng)
            elif path == spoilt:
                content = (
                    mutate_json(json.loads(content), rng) if path.suffix == ".json" else mutate_words(content, rng)
                )
            path.write_bytes(content)

    return Kind(write, lambda: read_all(root))


def arrays_of(folder: Path, name: str, arrays: dict[str, np.ndarray], read: Callable[[Path], Any]) -> Kind:
    """An .npz file of arrays."""
    path = folder / name
    return Kind(lambda rng: path.write_bytes(mutate_npz(arrays, rng)), lambda: read(path))


def basis(folder: Path) -> Kind:
    found = small(folder).basis
    arrays = {"modes": np.asarray(found.modes), "eigenvalues": np.asarray(found.eigenvalues), "faces": found.faces}
    arrays |= {"fingerprint": np.array(found.fingerprint), "mass": np.ones(42, np.float32)}
    arrays |= {"unused": np.array([3, 40], np.int32), "unused_vertices": np.zeros((2, 3), np.float32)}
    return arrays_of(folder, "basis.npz", arrays, spectral.load)


def body_arrays(joints: int = smplh.SMPLH_JOINTS) -> dict[str, np.ndarray]:
    """Of a body of five vertices."""
    rng, needed = np.random.default_rng(0), smplh.arrays_of(joints)
    sizes = {name: tuple(5 if n == "V" else 4 if n == "F" else n for n in axes) for name, axes in needed.items()}
    arrays = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    arrays["f"] = np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 3, 4]])
    return arrays | {"kintree_table": np.array([[-1, *range(joints - 1)], range(joints)])}


def body_npz(folder: Path, joints: int = smplh.SMPLH_JOINTS) -> Kind:
    return arrays_of(folder, "body.npz", body_arrays(joints), smplh._read_arrays)


def body_pkl(folder: Path, joints: int = smplh.SMPLH_JOINTS) -> Kind:
    arrays, path = body_arrays(joints), folder / "body.pkl"
    pickled = [pickle.dumps(arrays, protocol) for protocol in (2, 4)]

    def write(rng: random.Random) -> None:
        how, content = rng.choice([mutate, mutate_opcodes, None]), rng.choice(pickled)
        odd = {name: rng.choice(odd_arrays(array, rng)) for name, array in arrays.items() if rng.random() < 0.2}
        path.write_bytes(how(content, pickled[0], rng) if how else pickle.dumps(arrays | odd))

    return Kind(write, lambda: smplh._read_arrays(path))


def sequence(folder: Path) -> Kind:
    rng = np.random.default_rng(0)
    arrays = {"poses": rng.normal(size=(7, 156)), "betas": rng.normal(size=16), "trans": np.zeros((7, 3))}
    arrays |= {"gender": np.array("female"), "mocap_framerate": np.array(60.0)}
    return arrays_of(folder, "walk_poses.npz", arrays, motion.read_sequence)


def split_sequence(folder: Path) -> Kind:
    """With the poses in parts, and a row of betas for each frame."""
    rng = np.random.default_rng(0)
    sizes = {"root_orient": 3, "pose_body": 63, "pose_hand": 90}
    arrays = {name: rng.normal(size=(7, size)) for name, size in sizes.items()}
    arrays |= {"betas": np.tile(rng.normal(size=16), (7, 1)), "surface_model_type": np.array("smplh")}
    return arrays_of(folder, "walk_stageii.npz", arrays, motion.read_sequence)


def released(folder: Path) -> Kind:
    found, network = small(folder, 4), ModelConfig(4, 1, 1)
    config = run.RunConfig(network, TrainConfig(), "")
    made = run.Run(folder, SpectralAutoencoder(network), position().state.params, found.basis, config, 1)
    bundle.save_release(folder / "a.npz", made)
    with np.load(folder / "a.npz", allow_pickle=False) as file:
        arrays = dict(file)
    record, path = json.loads(str(arrays["metadata"])), folder / "b.npz"

    def write(rng: random.Random) -> None:
        if rng.random() < 0.3:
            text = mutate_json(record, rng).decode("latin1")
            path.write_bytes(npz([(n, npy(a)) for n, a in (arrays | {"metadata": np.array(text)}).items()]))
        else:
            path.write_bytes(mutate_npz(arrays, rng))

    return Kind(write, lambda: bundle.load_release(path))


def meshes(folder: Path) -> Kind:
    """A folder of meshes as arrays."""
    found = small(folder).splits["test"]
    arrays = {"vertices": np.stack([example.vertices for example in found]), "faces": found._basis.faces}
    template = Mesh(found[0].vertices, np.asarray(found._basis.faces))

    def write(rng: random.Random) -> None:
        for path in folder.glob("s.np?"):
            path.unlink()
        if rng.random() < 0.5:
            (folder / "s.npz").write_bytes(mutate_npz(arrays, rng))
        else:
            frames = arrays["vertices"]
            (folder / "s.npy").write_bytes(mutate_npy(rng.choice([frames, frames.reshape(3, -1)]), rng))

    def read() -> None:
        (path,) = folder.glob("s.np?")
        items = sequences.find(path)
        if path.suffix == ".npz":
            with warnings.catch_warnings(action="ignore"):  # of faces that name a vertex twice
                sequences.read_template(items)
        for item in items:
            list(sequences.read(item, template))

    return Kind(write, read)


def mesh_file(suffix: str) -> Callable[[Path], Kind]:
    def kind(folder: Path) -> Kind:
        import trimesh

        path, seeds = folder / f"a{suffix}", []
        for subdivisions in (0, 1):
            sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
            write_mesh(path, Mesh(np.asarray(sphere.vertices, np.float32), np.asarray(sphere.faces, np.int32)))
            seeds.append(path.read_bytes())
            if suffix in (".ply", ".stl"):
                text = sphere.export(file_type="ply", encoding="ascii") if suffix == ".ply" else sphere.export(
                    file_type="stl_ascii"
                )  # fmt: skip
                seeds.append(text if isinstance(text, bytes) else text.encode())

        def write(rng: random.Random) -> None:
            content = rng.choice(seeds)
            text = rng.random() < 0.6
            path.write_bytes(mutate_words(content, rng) if text else mutate(content, rng.choice(seeds), rng))

        return Kind(write, lambda: read_mesh(path))

    return kind


def gltf(suffix: str) -> Callable[[Path], Kind]:
    """A small mesh with accidents anywhere, or with an odd value in its JSON."""

    def kind(folder: Path) -> Kind:
        path = folder / f"a{suffix}"
        vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
        faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]], np.int32)
        write_mesh(folder / "a.glb", Mesh(vertices, faces))
        whole = (folder / "a.glb").read_bytes()
        (size,) = struct.unpack_from("<I", whole, 12)
        document, binary = json.loads(whole[20 : 20 + size]), whole[28 + size :]
        document["nodes"][0] |= {"rotation": [0, 0, 0, 1], "scale": [1, 2, 3], "children": []}
        (folder / "a.bin").write_bytes(binary)
        links = ["a.bin", "../a.bin", "/dev/zero", "data:;base64," + base64.b64encode(binary).decode(), "", "a%2fb"]

        def write(rng: random.Random) -> None:
            tree = json.loads(json.dumps(document))
            if suffix == ".gltf":
                tree["buffers"][0]["uri"] = rng.choice(links)
            text = mutate_json(tree, rng) if rng.random() < 0.7 else json.dumps(tree).encode()
            parts = struct.pack("<I4s", len(text), b"JSON") + text, struct.pack("<I4s", len(binary), b"BIN\0") + binary
            packed = struct.pack("<4sII", b"glTF", 2, 12 + sum(map(len, parts))) + b"".join(parts)
            content = packed if suffix == ".glb" else text
            path.write_bytes(mutate(content, whole, rng) if rng.random() < 0.3 else content)

        return Kind(write, lambda: read_mesh(path))

    return kind


def packed(folder: Path) -> Kind:
    """Accidents within a gzip file, or to it."""
    inner, path = mesh_file(".obj")(folder), folder / "a.obj.gz"

    def write(rng: random.Random) -> None:
        inner.write(rng)
        content = gzip.compress((folder / "a.obj").read_bytes(), 1)
        path.write_bytes(mutate(content, content, rng) if rng.random() < 0.5 else content)

    return Kind(write, lambda: read_mesh(path))


def config(folder: Path) -> Kind:
    run.save_config(folder, run.RunConfig(ModelConfig(), TrainConfig(), "data"))
    path = folder / "config.json"
    record = json.loads(path.read_text())
    return Kind(lambda rng: path.write_bytes(mutate_json(record, rng)), lambda: run.load_config(folder))


def metadata(folder: Path) -> Kind:
    """What says what a prepared folder holds."""
    place = small(folder).path
    names = (dataset.METADATA_FILE, dataset.TFDS_INFO_FILE, dataset.TFDS_FEATURES_FILE)
    sound = {place / name: (place / name).read_bytes() for name in names}

    def write(rng: random.Random) -> None:
        spoilt = rng.choice(list(sound))
        for path, content in sound.items():
            path.write_bytes(mutate_json(json.loads(content), rng) if path == spoilt else content)

    def read() -> None:
        data = dataset.open_prepared(place)
        for name in data.splits:
            dataset.read_split(data, name)

    return Kind(write, read)


def bare_numbers(folder: Path) -> Kind:
    found = small(folder).basis
    paths = folder / "evecs.bin", folder / "faces.bin"
    sound = np.asarray(found.modes, "<f4").tobytes(), np.asarray(found.faces, "<i4").tobytes()

    def write(rng: random.Random) -> None:
        spoilt = rng.randrange(2)
        for i, path in enumerate(paths):
            path.write_bytes(mutate(sound[i], sound[1 - i], rng) if i == spoilt else sound[i])

    def read() -> None:
        faces = raw.read_faces(paths[1])
        raw.read_modes(paths[0], int(faces.max()) + 1)

    return Kind(write, read)


def log(folder: Path) -> Kind:
    lines = [json.dumps({"epoch": i, "spectral_train_loss": 0.1}).encode() for i in range(5)]

    def write(rng: random.Random) -> None:
        spoilt = [*lines[:2], mutate_json(json.loads(lines[2]), rng), *lines[3:]]
        (folder / logs.LOG_FILE).write_bytes(b"\n".join(spoilt) + b"\n")

    return Kind(write, lambda: logs.read_log(folder))


KINDS: dict[str, tuple[Callable[[Path], Kind], int]] = {  # and how many in the slow run
    "pth": (pth, 8000),
    "older_pth": (older_pth, 4000),
    "safetensors": (tensors_file, 4000),
    "ckpt": (ckpt, 600),
    "module_pth": (module_pth, 4000),
    "tar_2022": (layout_2022, 3000),
    "npy_2026": (layout_2026, 3000),
    "basis_npz": (basis, 2000),
    "evecs_faces_bin": (bare_numbers, 2000),
    "body_npz": (body_npz, 1000),
    "body_pkl": (body_pkl, 1000),
    "smpl_npz": (functools.partial(body_npz, joints=smplh.SMPL_JOINTS), 1000),
    "smpl_pkl": (functools.partial(body_pkl, joints=smplh.SMPL_JOINTS), 1000),
    "sequence_npz": (sequence, 2000),
    "split_sequence_npz": (split_sequence, 2000),
    "release_npz": (released, 1000),
    "meshes_npz": (meshes, 2000),
    "infos_json": (infos, 1000),
    "config_json": (config, 2000),
    "metadata_json": (metadata, 500),
    "log_jsonl": (log, 1000),
    "obj": (mesh_file(".obj"), 1500),
    "obj_gz": (packed, 1500),
    "glb": (gltf(".glb"), 3000),
    "gltf": (gltf(".gltf"), 3000),
    "ply": (mesh_file(".ply"), 1500),
    "off": (mesh_file(".off"), 1500),
    "stl": (mesh_file(".stl"), 1500),
}


@pytest.mark.parametrize("share", [0.01, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", KINDS)
def test_mutated_files_load_or_are_refused(name: str, share: float, tmp_path: Path, capsys) -> None:
    make, number = KINDS[name]
    kind, outcomes, told, slowest, largest = make(tmp_path), {"read": 0, "refused": 0, "badly told": 0}, "", 0.0, 0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    for i in range(round(share * number)):
        rng = random.Random(f"{name} {i}")
        kind.write(rng)
        tracemalloc.reset_peak()
        before, start = tracemalloc.get_traced_memory()[0], time.thread_time()
        try:
            kind.read()
            outcomes["read"] += 1
        except ValueError as error:
            named = str(tmp_path) in str(error) and "allow_pickle" not in str(error)
            outcomes["refused" if named else "badly told"] += 1
            told = f"input {i}: {type(error).__name__}: {error}" if not named else told
        except BaseException as error:
            error.add_note(f"input {i}")
            raise
        slowest = max(slowest, time.thread_time() - start)
        largest = max(largest, tracemalloc.get_traced_memory()[1] - before)
        assert slowest < SECONDS, f"input {i}: {slowest:.1f} s"
        assert largest < MEMORY, f"input {i}: {largest >> 20} MiB"
    tracemalloc.stop()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 1024
    with capsys.disabled():
        if share == 1:
            print(
                f"\n{name}: {number} inputs, {outcomes}, slowest {slowest:.2f} s, peak {largest / 2**20:.0f} MiB, "
                f"resident memory grew by {grown:.0f} MiB"
            )
    assert not outcomes["badly told"], told
    assert outcomes["refused"]
    assert outcomes["read"] or share < 1
