"""torch_file: what is read and written, and what is refused (see also test_fuzz)."""

import argparse
import datetime
import enum
import functools
import io
import math
import os
import pickle
import struct
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path, PurePosixPath

import ml_dtypes
import numpy as np
import pytest
from helpers import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_archives import TREE, archive, headed, legacy, safetensors, tensor, values, written

from spectral_jax.files.torch_file import TorchFileError, describe, load, save

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
OTHERS = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "c16"]
DTYPES = [np.dtype(d) for d in FLOATS + OTHERS]


def assert_same(a: object, b: object) -> None:
    """The same types and values; arrays by dtype, shape and bytes."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or (a != a and b != b)


# Reading.


def test_reads_a_lightning_checkpoint() -> None:
    tree = load(TINY / "last.ckpt")
    initial = load(str(TINY / "init.pth"))
    assert type(tree["state_dict"]) is OrderedDict
    assert list(tree["state_dict"]) == list(initial)
    for name, value in initial.items():
        assert tree["state_dict"][name].shape == value.shape
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
        assert value.flags.aligned
        assert not value.flags.writeable
    moments = tree["optimizer_states"][0]["state"]
    assert [moments[i]["exp_avg"].shape for i in moments] == [v.shape for v in initial.values()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 4)])
def test_round_trip_of_arrays(dtype: np.dtype, shape: tuple) -> None:
    array = values(shape, dtype)
    assert_same(load(written(array)), array)
    assert_same(load(written(np.array(array, order="F"))), array)


LEAVES = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats() | st.text()
KEYS = st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.tuples(st.text(), st.integers(0, 9))
ARRAYS = st.builds(values, st.tuples(st.integers(0, 3), st.integers(0, 3)), st.sampled_from(DTYPES))
TREES = st.recursive(
    LEAVES | ARRAYS,
    lambda tree: (
        st.lists(tree, max_size=4)
        | st.lists(tree, max_size=4).map(tuple)
        | st.dictionaries(KEYS, tree, max_size=4)
        | st.dictionaries(KEYS, tree, max_size=4).map(OrderedDict)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(TREES)
def test_round_trip_of_trees(tree: object) -> None:
    content = written(tree)
    assert_same(load(io.BytesIO(content)), tree)
    assert written(load(content)) == content


def test_other_byte_order() -> None:
    for dtype in DTYPES:
        array = values((2, 3), dtype)
        content = written(array)
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            records = {name.removeprefix("archive/"): zipped.read(name) for name in zipped.namelist()}
        word = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        swapped = array.view(f"u{word}").byteswap().tobytes()
        other = {b"little": b"big", b"big": b"little"}[records["byteorder"]]
        assert_same(load(archive(records["data.pkl"], {"0": swapped}, byteorder=other)), array)


def test_views_strides_and_offsets_share_a_storage() -> None:
    storage = np.arange(12, dtype="<f4")
    parts = [
        tensor((3, 4), (4, 1), 0, 12),
        tensor((4, 3), (1, 4), 0, 12),
        tensor((3,), (4,), 1, 12),
        tensor((), (), 7, 12),
    ]
    base, transposed, column, scalar = load(archive(b"\x80\2(" + b"".join(parts) + b"t.", {"0": storage.tobytes()}))
    np.testing.assert_array_equal(base, storage.reshape(3, 4))
    np.testing.assert_array_equal(transposed, base.T)
    np.testing.assert_array_equal(column, base[:, 1])
    assert scalar.shape == ()
    assert scalar == 7
    assert np.shares_memory(base, column)


def test_misaligned_storages_are_aligned() -> None:
    content = archive(b"\x80\2" + tensor((4,), (1,)) + b".", {"0": np.arange(4, dtype="<f4").tobytes()}, top="x")
    for pad in range(4):
        array = load(
            archive(
                b"\x80\2" + tensor((4,), (1,)) + b".", {"0": np.arange(4, dtype="<f4").tobytes()}, top="x" * (1 + pad)
            )
        )
        assert array.flags.aligned
        assert array.tolist() == [0, 1, 2, 3]
    assert load(content).tolist() == [0, 1, 2, 3]


def test_plain_values_of_newer_protocols() -> None:
    tree = {
        "set": {1, "two"},
        "bytes": b"\0\xff",
        "long": 2**70,
        "list": list(range(300)),
        "none": None,
        "nested": [[()], {}],
    }
    for protocol in range(2, 6):
        assert_same(load(archive(pickle.dumps(tree, protocol))), tree)


def test_numpy_scalars_become_plain() -> None:
    tree = [np.float64(0.5), np.float32(0.25), np.int64(-3), np.bool_(True), np.complex64(1 + 2j)]
    assert_same(load(archive(pickle.dumps(tree, 2))), [0.5, 0.25, -3, True, 1 + 2j])


# Writing.


def test_writing_a_path_is_atomic_and_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.pth", TREE)
    save(str(tmp_path / "b.pth"), TREE)
    content = (tmp_path / "a.pth").read_bytes()
    assert content == (tmp_path / "b.pth").read_bytes() == written(TREE)
    with pytest.raises(TypeError):
        save(tmp_path / "a.pth", {"a": object()})

    def fail(source: object, target: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        save(tmp_path / "a.pth", {})
    assert (tmp_path / "a.pth").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.pth"]


def test_jax_arrays_are_written() -> None:
    import jax.numpy as jnp

    tree = [jnp.arange(3.0), jnp.float32(2), jnp.ones((2, 2), jnp.bfloat16)]
    assert_same(load(written(tree)), [np.asarray(array) for array in tree])


def test_records_are_aligned() -> None:
    content = written(TREE)
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        for info in zipped.infolist():
            name, extra = struct.unpack_from("<2H", content, info.header_offset + 26)
            assert (info.header_offset + 30 + name + extra) % 64 == 0
        assert zipped.testzip() is None


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [1, object()]}, r"\['a'\]\[1\] is a builtins.object"),
        ([np.float32(1)], r"\[0\] is a numpy.float32"),
        ({"a": {1}}, r"\['a'\] is a builtins.set"),
        (np.array(["a"]), "dtype <U1"),
        ({"a": np.array([None])}, r"\['a'\] is an array of dtype object"),
        ({(1, (2,)): 0}, r"key \(1, \(2,\)\)"),
        (1 << 3000, "int"),
    ],
)
def test_other_values_are_not_written(tree: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        written(tree)


def test_deep_and_cyclic_trees_are_not_written() -> None:
    cycle: list = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="deeper than 64"):
        written(cycle)


# Refusing.


class Reduced:
    """Pickles as a call."""

    def __init__(self, *call: object):
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


def bomb(levels: int, width: int) -> bytes:
    """A pickle of nested tuples, each `width` times the same one."""
    return (
        b"\x80\2)"
        + b"".join(b"q%c0(" % i + b"h%c" % i * width + b"t" for i in range(levels)).replace(b"0(", b"(")
        + b"."
    )


HOSTILE = [
    Reduced(os.system, "touch hacked"),
    Reduced(eval, "open('hacked', 'w')"),
    Reduced(exec, "import antigravity"),
]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("call", HOSTILE, ids=lambda call: call.call[0].__name__)
def test_calls_become_records_and_nothing_runs(call, protocol, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    (record,) = load(archive(pickle.dumps([call], protocol)))
    assert record.name.endswith(f".{call.call[0].__name__}")
    assert record.arguments == call.call[1:]
    assert set(sys.modules) == before
    assert list(tmp_path.iterdir()) == []


class Best(enum.Enum):
    LOSS = "loss"


class Attributes(dict):
    """As the hyper-parameters of Lightning."""


class Node:
    """As a node of OmegaConf, which knows its parent."""

    def __init__(self, parent):
        self.parent, self.children = parent, []
        if parent:
            parent.children.append(self)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_objects_become_records(protocol) -> None:
    attributes, root = Attributes(rate=0.1), Node(None)
    attributes.note, child = "odd", Node(root)
    values = [
        argparse.Namespace(rate=0.1, out=PurePosixPath("/data/runs")), Best.LOSS, datetime.date(2020, 1, 2),
        functools.partial(os.path.join, "a", b=1), attributes, child, Node, defaultdict(int, a=1), {Best.LOSS: 1},
        np.array(["a"]), np.datetime64("2020-01-01"), range(3), 1j, frozenset({1}), bytearray(b"a"), slice(1, 2),
    ]  # fmt: skip
    tree = load(archive(pickle.dumps(values, protocol)))
    space, best, day, partial, attributes, child, kind, counts, keyed, text, moment, *_, fixed, raw, _ = tree
    assert space.name == "argparse.Namespace"
    assert space.state["rate"] == 0.1
    assert space.state["out"].name.startswith("pathlib")
    assert best.name.endswith("Best")
    assert best.arguments[-1] in ("loss", "LOSS")
    assert day.name == "datetime.date"
    assert (partial.name, partial.state[1:3]) == ("functools.partial", (("a",), {"b": 1}))
    assert attributes.items == {"rate": 0.1}
    assert attributes.state == {"note": "odd"}
    assert child.state["parent"].state["children"] == [child]
    assert (kind.name.rsplit(".", 1)[1], kind.arguments) == ("Node", None)
    assert counts.items == {"a": 1}
    assert [key.name for key in keyed] == [best.name]
    assert text.name.endswith(("._reconstruct", "._frombuffer"))
    assert moment.name.endswith(".scalar")
    assert fixed == {1}
    assert raw == b"a" or raw.name.endswith(".bytearray")


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("code", ["?", "<f4", ">f8", "<i8", ">u2", "<c16", "<f2"])
def test_numpy_arrays_are_read(code: str, protocol: int) -> None:
    array = values((2, 3), np.dtype(code))
    tree = [array, array, np.asfortranarray(array), array[:0], np.array(array[1, 1]), array.T[::2]]
    found = load(archive(pickle.dumps(tree, protocol)))
    assert found[0] is found[1]
    for a, b in zip(found, tree, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
        assert not a.flags.writeable
    for name, code in {"shape": b"K\2K\x09\x86", "content": b"C\1a"}.items():
        pickled = pickle.dumps(np.arange(6.0).reshape(2, 3), 4)
        old = {"shape": b"K\2K\3\x86", "content": b"C\x30" + np.arange(6.0).tobytes()}[name]
        assert old in pickled
        with pytest.raises(TorchFileError, match="bytes for a NumPy array of shape"):
            load(archive(pickled.replace(b"\x95", b"\x95", 1).replace(old, code)))


def test_an_object_that_holds_itself_is_read() -> None:
    record = load(archive(b"\x80\2ca\nB\n)\x81q\0}X\1\0\0\0xh\0sb."))
    assert record.state == {"x": record}


def test_deep_records_are_read() -> None:
    record = load(archive(b"\x80\2" + b"ca\nB\n" * 30_000 + b")R" + b"\x85R" * 29_999 + b"."))
    assert record.arguments[0].arguments[0].name == "a.B"


def test_a_description_tells_tensors_and_objects_line_by_line() -> None:
    root = Node(None)
    Node(root)
    space = argparse.Namespace(rate=0.1, out="a\x1b[31m\n" + "b" * 500)
    tree = {"w": np.zeros((3, 4), "f4"), "space": space, "betas": (0.9, 1), "root": root, Best.LOSS: None}
    lines = list(describe(load(archive(pickle.dumps(tree, 4)))))
    assert lines[0] == "dict of 5"
    for line in ("  w: float32 (3, 4)", "  space: argparse.Namespace object", "    rate: 0.1", "  betas: (0.9, 1)"):
        assert line in lines
    assert any("Node object, as above" in line for line in lines)
    assert all(line.isprintable() and len(line) < 300 for line in lines)


def test_descriptions_are_bounded() -> None:
    deep = b"\x80\2" + b"ca\nB\n" * 30_000 + b")R" + b"\x85R" * 29_999 + b"."
    shared = b"\x80\2ca\nB\n)R" + b"".join(b"q%c0ca\nB\nh%ch%c\x86R" % (i, i, i) for i in range(97, 107)) + b"."
    wide = pickle.dumps([[[i]] for i in range(30_000)], 2)
    for pickled, most in ((deep, 200), (shared, 100), (wide, 20_001)):
        assert len(list(describe(load(archive(pickled))))) <= most


REFUSED = {
    "calling a string": (b"\x80\2X\4\0\0\0eval)R.", "refuses to call"),
    "calling a storage type": (b"\x80\2ctorch\nFloatStorage\n)R.", "'torch.FloatStorage' with the wrong arguments"),
    "arguments": (b"\x80\2ccollections\nOrderedDict\nK\1\x85R.", "'collections.OrderedDict' with the wrong arguments"),
    "name that is no string": (b"\x80\4]]\x93.", "name that is not a text"),
    "INST": (b"\x80\2(ios\nsystem\n.", "refuses the pickle opcode INST"),
    "EXT1": (b"\x80\2\x82\1.", "refuses the pickle opcode EXT1"),
    "state": (b"\x80\2]}b.", "refuses to set the state of a list"),
    "tuple bomb": (bomb(10, 10), "unfolds to more than 16 times"),
    "doubling tuple bomb": (bomb(10, 2), "unfolds to more than 16 times"),
    "bomb as a key": (bomb(40, 2)[:-1].replace(b"\x80\2", b"\x80\2}") + b"K\1s.", "a key that is not short and plain"),
    "list in itself": (b"\x80\2]q\0h\0a.", "unfolds to more than|deeper than"),
    "deep": (b"\x80\2" + b"]" * 100 + b"a" * 99 + b".", "deeper than 64"),
    "very deep": (b"\x80\2" + b"(" * 100_000 + b"t" * 100_000 + b".", "deeper than 64"),
    "very deep dictionary": (
        b"\x80\2ccollections\nOrderedDict\nq\0" + b"h\0)RN" * 20_000 + b"}" + b"s" * 20_000 + b".",
        "deeper than 64",
    ),
    "long tuple as a key": (b"\x80\2}(" + b"N" * 10_000 + b"tq\0" + b"Nsh\0" * 10_000 + b".", "not short and plain"),
    "many empty sets": (b"\x80\4(" + b"\x8f" * 300_000 + b"t.", "more than 262,144 opcodes"),
    "very deep tuple as a key": (b"\x80\2})" + b"\x85" * 100_000 + b"K\1s.", "a key that is not short and plain"),
    "long value": (b"\x80\2X\xff\xff\xff\x7fabc.", "damaged"),
    "copied again and again": (
        b"\x80\2](" + b"N" * 600 + b"eq\0(" + b"c__builtin__\nset\nh\0\x85R" * 300 + b"t.",
        "unfolds to more than 16 times",
    ),
    "nothing": (b"", "damaged"),
    "no stop": (b"\x80\2N", "damaged"),
    "empty stack": (b"\x80\2\x85.", "damaged"),
    "unknown memo": (b"\x80\2h\5.", "damaged"),
    "odd items": (b"\x80\2}(K\1u.", "damaged"),
    "key": (b"\x80\2}]K\1s.", "a key that is not short and plain"),
    "many long names": (
        b"\x80\4(X\x84\3\0\0" + b"a" * 900 + b"q\0" + b"h\0h\0\x93" * 80_000 + b"t.",
        "name that is not a text|unfolds to more than 16 times",
    ),
    "names again and again": (
        b"\x80\4(X\xf0\1\0\0" + b"a" * 496 + b"q\0" + b"h\0h\0\x93" * 80_000 + b"t.",
        "unfolds to more than 16 times",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickled, message = REFUSED[name]
    Path("model.pth").write_bytes(archive(pickled))
    start = time.process_time()
    with pytest.raises(TorchFileError, match=message) as caught:
        load("model.pth")
    assert time.process_time() - start < 5
    assert str(caught.value).startswith("model.pth: ")
    assert "\n" not in str(caught.value)
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (tensor((5,), (1,)), "reaches past the end"),
        (tensor((2, 2), (1, 3)), "reaches past the end"),
        (tensor((4,), (1,), offset=1), "reaches past the end"),
        (tensor((2**62, 2**62), (2**62, 1)), "reaches past the end"),
        (tensor((10**9, 10**3), (0, 0)), "unfolds to more than 16 times"),
        (tensor((2**62, 2**62), (0, 0)), "damaged"),
        (tensor((1,) * 65, (1,) * 65), "impossible"),
        (tensor((-1,), (1,)), "impossible"),
        (tensor((2,), (-1,), offset=1), "impossible"),
        (tensor((2**64,), (0,)), "impossible"),
        (tensor((2,), (1, 1)), "impossible"),
        (tensor((25 * 10**9,), (1,), count=25 * 10**9), "should have 100000000000 bytes, the file has 16"),
        (tensor((4,), (1,), storage=b"torch\nDoubleStorage"), "should have 32 bytes, the file has 16"),
        (tensor((4,), (1,), key="7"), "storage '7' should have 16 bytes, the file has none"),
        (tensor((4,), (1,), storage=b"collections\nOrderedDict"), "persistent id"),
        (tensor((4,), (1,))[:-2] + b"K\1tR", "'torch._utils._rebuild_tensor_v2' with the wrong arguments"),
        (tensor((4,), (1,))[:-2] + b"}X\4\0\0\0conj\x88stR", "resolve_conj"),
    ],
)
def test_refuses_tensors(opcodes: bytes, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(TorchFileError, match=message):
        load(archive(b"\x80\2" + opcodes + b".", {"0": bytes(16)}))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_tensor_counts_each_time() -> None:
    for times, error in ((3, None), (300, TorchFileError)):
        content = archive(
            b"\x80\2](" + tensor((400,), (1,), count=400) + b"q\0" + b"h\0" * times + b"e.", {"0": bytes(1600)}
        )
        if error:
            with pytest.raises(error, match="unfolds to more than 16 times"):
                load(content)
        else:
            assert len(load(content)) == 1 + times


def test_small_expanded_tensors_are_read() -> None:
    assert load(archive(b"\x80\2" + tensor((3, 4), (0, 1)) + b".", {"0": bytes(16)})).tolist() == [[0.0] * 4] * 3


def zipped(records: dict[str, bytes], **options: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as target:
        for name, content in records.items():
            target.writestr(name, content)
    return buffer.getvalue()


GOOD = written(TREE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is not a zip archive"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "damaged"),
        (pickle.dumps({}), "bare pickle"),
        (b"pickle".ljust(257, b"\0") + b"ustar\0" + bytes(1000), "tar archive"),
        (struct.pack("<Q", 20) + b'{"__metadata__":{}}', "a header of 20 bytes"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x1f\x8b" + bytes(100), "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (GOOD[: len(GOOD) // 2], "truncated"),
        (GOOD[:-1], "damaged"),
        (zipped({"a.npy": b""}), ".npz file with 0 records named data.pkl"),
        (zipped({}), "zip archive with 0 records named data.pkl"),
        (zipped({"a/data.pkl": b"N.", "b/data.pkl": b"N."}), "zip archive with 2 records named data.pkl"),
        (zipped({"a/data.pkl": b"N.", "a/constants.pkl": b"N."}), "TorchScript"),
        (zipped({"a/data.pkl": b"N.", "a/code/__torch__.py": b""}), "TorchScript"),
        (zipped({"a/data.pkl": b"N.", "a/code/a.py": b"a" * 50}, compression=zipfile.ZIP_DEFLATED), "TorchScript"),
        (zipped({"a/data.pkl": b"N." * 50}, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (zipped({"a/data.pkl": b"N.", "a/byteorder": b"middle"}), "byte order"),
        (zipped({"a/data.pkl": bytes(9 << 20)}), "the limit is 8,388,608"),
        (GOOD.replace(struct.pack("<f", 2), b"\1\2\3\4", 1), "checksum"),
        (zipped({"a/data.pkl": b"N.", "b/data.pkl": b"N."}).replace(b"b/data", b"a/data"), "two records 'a/data.pkl'"),
    ],
)
def test_refuses_other_files(content: bytes, message: str) -> None:
    with pytest.raises(TorchFileError, match=message):
        load(content)


def test_the_format_before_torch_1_6() -> None:
    floats = np.arange(12, dtype="<f4")
    content = legacy(tensor((3, 4), (4, 1), 0, 12), floats)
    np.testing.assert_array_equal(load(content), floats.reshape(3, 4))
    other, unknown = tensor((3, 4), (4, 1), 0, 12, b"torch\nDoubleStorage"), tensor((3, 4), (4, 1), 0, 12, key="7")
    both = b"(" + other + tensor((1,), (1,), 0, 12) + b"t"
    cut = legacy(tensor((3, 4), (4, 1), 0, 12), floats[:-1], 12)
    past = legacy(tensor((4, 4), (4, 1), 0, 12), floats)
    wrong = {"should have 12": cut, "no tensor has": legacy(unknown, floats), "two dtypes": legacy(both, floats)}
    for message, spoilt in wrong.items() | {("reaches past the end", past)}:
        with pytest.raises(TorchFileError, match=message):
            load(spoilt)
    parts = 0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}  # before the tree
    start, *newer = (b"".join(pickle.dumps(part, protocol) for part in parts) for protocol in (2, 3, 4, 5))
    assert content.startswith(start)
    for begun in newer:
        np.testing.assert_array_equal(load(begun + content[len(start) :]), floats.reshape(3, 4))
    hostile = pickle.dumps(Reduced(os.system, "touch hacked"), 2)[2:-1]
    assert load(legacy(b"(" + tensor((1,), (1,), 0, 12) + hostile + b"t", floats))[1].arguments == ("touch hacked",)


def test_long_integers_and_sets_as_keys_are_read() -> None:
    number = -(3**5000)
    loaded = load(archive(pickle.dumps([number, {frozenset({1, 2}): "set", (1, 2): "tuple"}], 4)))
    assert loaded[0] == number
    key, pair = loaded[1]
    assert (key.arguments, pair) == ((frozenset({1, 2}),), (1, 2))
    assert "integer of 7,925 bits" in " ".join(describe(loaded))


def test_safetensors() -> None:
    tree = {"w": values((2, 3), np.dtype("f4")), "b": values((2,), np.dtype("?")), "n": values((), np.dtype("i8"))}
    tree |= {"h": values((2, 2), np.dtype(ml_dtypes.bfloat16)), "empty": np.zeros((0, 3), "f4")}
    assert_same(load(safetensors(tree)), tree)
    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    bad = [{"dtype": "F31"}, {"shape": [3]}, {"shape": [-2]}, {"shape": [2**62, 2**62]}, {"shape": [2.0]}, {"shape": 2}]
    bad += [{"data_offsets": [0, 12]}, {"data_offsets": [8, 16]}, {"data_offsets": [-8, 0]}, {"data_offsets": [0]}]
    for change in bad:
        with pytest.raises(TorchFileError, match="'w'"):
            load(headed({"w": good | change}, bytes(8)))
    with pytest.raises(TorchFileError, match="overlap"):
        load(headed({"v": good, "w": good}, bytes(8)))
    for content in (headed({"w": good}, bytes(8))[:-20], headed({"w": [1]}, b""), headed({}, b"").replace(b"}", b"]")):
        with pytest.raises(TorchFileError, match="<bytes>"):
            load(content)


def test_overlapping_records_are_refused() -> None:
    names = [f"a/data/{i}" for i in range(10)]
    content = zipped({name: bytes(1000) if name == names[0] else b"" for name in names} | {"a/data.pkl": b"N."})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        first, directory = archive.infolist()[0], archive.start_dir
    header = content.index(b"PK\1\2", directory)
    entry = bytearray(content[header : header + 46 + len(names[0])])
    entries = b"".join(bytes(entry[:46]) + name.encode() for name in names)
    entries += content[content.index(b"PK\1\2", content.index(names[9].encode(), directory)) :]
    content = content[:directory] + entries
    end = content.rindex(b"PK\5\6")
    assert first.file_size == 1000
    with pytest.raises(TorchFileError, match="overlap"):
        load(content[: end + 12] + struct.pack("<2L", end - directory, directory) + content[end + 20 :])


def test_a_long_directory_is_refused_before_it_is_read() -> None:
    entries = b"PK\1\2" + bytes(42)
    content = b"PK\3\4" + entries * 100_000 + b"PK\5\6" + struct.pack("<8xLL2x", 46 * 100_000, 4)
    tracemalloc.start()
    with pytest.raises(TorchFileError, match="has 100,000 records, the limit is 32,768"):
        load(content)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_large_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with (tmp_path / "a.pth").open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(TorchFileError, match=r"a\.pth: has 1,073,741,825 bytes, the limit is 1,073,741,824"):
        load(tmp_path / "a.pth")


def test_missing_files_raise_as_open_does(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.pth")


# Against torch itself, where it is installed.


def from_torch(tensor) -> np.ndarray:
    """A torch tensor as an array, by its bytes."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.frombuffer(content, dtype).reshape(tensor.shape)


@pytest.mark.needs("torch")
def test_reads_what_torch_writes(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "été.pth"
    names = [dtype.name for dtype in DTYPES] + ["float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    tensors = {name: (torch.arange(6) % 2).to(getattr(torch, name)).reshape(2, 3) for name in names}
    tensors |= {f"scalar {name}": tensor[1, 1] for name, tensor in tensors.items()}
    tensors |= {f"empty {name}": tensor[:0] for name, tensor in tensors.items() if tensor.ndim}
    tensors |= {"base": base, "transposed": base.T, "slice": base[1:3, ::2], "column": base[:, 4], "again": base}
    tensors |= {
        "parameter": torch.nn.Parameter(base.float()),
        "grad": base.clone().requires_grad_(),
        "zero": torch.zeros(3, 0, 2),
    }
    tensors |= {"expanded": torch.ones(1).expand(5), "permuted": torch.rand(2, 3, 4).permute(2, 0, 1)}
    for protocol in range(1, 6):
        torch.save(tensors, path, pickle_protocol=protocol)
        tree = load(path)
        assert list(tree) == list(tensors)
        for name, value in tensors.items():
            assert_same(np.array(tree[name], order="C"), np.array(from_torch(value), order="C"))
    assert np.shares_memory(tree["base"], tree["column"])
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "kept by torch, dropped here"
    plain = {"size": torch.Size([2, 3]), "bytes": b"a\xff", "set": {1, "a"}, "deep": [({"a": OrderedDict(b=None)},)]}
    torch.save([parameter, plain, torch.bfloat16], path)
    assert_same(load(path)[1], plain | {"size": (2, 3)})
    assert load(path)[0].tolist() == [1, 1]
    assert load(path)[2] == ml_dtypes.bfloat16
    for pending in (torch.ones(2, dtype=torch.complex64).conj(), torch.ones(2, dtype=torch.complex64).conj().imag):
        torch.save(pending, path)
        with pytest.raises(TorchFileError, match="resolve_conj"):
            load(path)
    tensors = {name: tensor for name, tensor in tensors.items() if "uint16" not in name}
    torch.save([tensors, Node(None)], path, _use_new_zipfile_serialization=False)
    tree, node = load(path)
    for name, value in tensors.items():
        assert_same(np.array(tree[name], order="C"), np.array(from_torch(value), order="C"))
    assert np.shares_memory(tree["base"], tree["column"])
    assert node.state == {"parent": None, "children": []}
    torch.save([torch.eye(2).to_sparse(), torch.device("cpu")], path)
    sparse, device = load(path)
    assert sparse.name == "torch._utils._rebuild_sparse_tensor"
    assert (device.name, device.arguments) == ("torch.device", ("cpu",))
    noted = torch.arange(3.0)
    noted.note = "kept by torch"
    torch.save(noted, path)
    assert load(path).tolist() == [0, 1, 2]


@pytest.mark.needs("torch")
def test_reads_module_and_optimizer_states(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(module.parameters(), amsgrad=True)
    module(torch.rand(5, 3)).square().sum().backward()
    optimizer.step()
    torch.save({"module": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pth")
    tree = load(tmp_path / "a.pth")
    assert tree["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    save(tmp_path / "b.pth", tree)
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    assert torch.equal(back["module"]["0.weight"], module[0].weight)
    module.load_state_dict(back["module"])
    optimizer.load_state_dict(back["optimizer"])
    assert torch.equal(optimizer.state[module[0].weight]["exp_avg"], back["optimizer"]["state"][0]["exp_avg"])


@pytest.mark.needs("torch")
def test_torch_reads_what_is_written(tmp_path: Path) -> None:
    import torch

    arrays = {f"{dtype} {shape}": values(shape, dtype) for dtype in DTYPES for shape in [(), (0,), (3, 0, 2), (2, 3)]}
    arrays |= {"transposed": values((3, 4), np.dtype("f4")).T, "big-endian": np.arange(3.0).astype(">f8")}
    plain = [
        1,
        -1,
        2**31,
        -(2**63),
        2**2000,
        0.1,
        math.inf,
        "é\ud800",
        None,
        True,
        (),
        (1, 2, 3, 4),
        [],
        {},
        OrderedDict(a={"b": ()}),
    ]
    save(tmp_path / "a.pth", {"arrays": arrays, "plain": plain})
    for options in ({}, {"mmap": True}):
        back = torch.load(tmp_path / "a.pth", weights_only=True, **options)
        assert_same(back["plain"], plain)
        for name, array in arrays.items():
            tensor = back["arrays"][name]
            assert tensor.is_contiguous()
            assert_same(np.array(from_torch(tensor)), np.array(array, array.dtype.newbyteorder("="), order="C"))
