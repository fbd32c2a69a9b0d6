"""safe_files: what is read, and what is refused before it takes memory or time."""

import io
import json
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from spectral_jax.files import safe_files


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def open_first(path, max_bytes=1 << 30):
    with safe_files.open_npz(path, max_bytes) as arrays:
        return arrays[next(iter(arrays))]


def refused(read, message):
    """Within a few megabytes and a second."""
    tracemalloc.start()
    start = time.thread_time()
    try:
        with pytest.raises(ValueError, match=message):
            read()
        seconds, (_, peak) = time.thread_time() - start, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < 1
    assert peak < 8 << 20


ARRAYS = [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(2.5),
    np.arange(3, dtype=">i8"), np.zeros((0, 3), np.float16), np.array("text"), np.array([b"ab", b"c"]),
    np.array([True, False]), np.array(1 + 2j), np.array([2], np.uint8),
]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype} {array.shape}")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_of_numpy(array, save, tmp_path):
    save(tmp_path / "a.npz", a=array)
    np.save(tmp_path / "a.npy", array)
    for read in (open_first(tmp_path / "a.npz"), safe_files.open_npy(tmp_path / "a.npy")):
        np.testing.assert_array_equal(read, array)
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert not read.flags.writeable


def test_headers_of_other_writers_are_understood(tmp_path):
    body = np.arange(6, dtype="<f4").tobytes()
    for header in (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }",  # Python 2
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,3), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}  \n",
    ):
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + body)
        assert safe_files.open_npy(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}]), "holds Python objects, which are never read"),
        (np.zeros(2, [("a", "f4")]), "its header is not that of a plain array"),
        (np.zeros(2, "M8[s]"), r"holds datetime64, only numbers and text are read"),
    ],
)
def test_other_arrays_are_refused(array, message, tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(array))
    refused(lambda: safe_files.open_npy(tmp_path / "a.npy"), rf"a\.npy: .*{message}")
    np.savez(tmp_path / "a.npz", x=array)
    refused(lambda: open_first(tmp_path / "a.npz"), f"array x: {message}")


PLAIN = b"{'descr': '<f4', 'fortran_order': False, 'shape': ("


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (PLAIN + b"9" * 5000 + b",), }", "not that of a plain array"),
        (PLAIN + b"9, " * 3000 + b"), }", "not that of a plain array"),
        (PLAIN + b"1," * 32 + b"999999999999999999), }", "24 bytes, .*takes 3,9"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (-6,), }", "not that of a plain array"),
        (b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (6,), }", "not that of a plain array"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (7,), }", r"24 bytes, float32 \(7,\) takes 28"),
        (b"{'descr': '<S0', 'fortran_order': False, 'shape': (7,), }", "only numbers and text"),
        (b"{'descr': '<f3', 'fortran_order': False, 'shape': (8,), }", "not a readable"),
        (b"(" * 9000, "not that of a plain array"),
        (b" " * 10_001, "its header has 10,001 bytes, the limit is 10,000"),
    ],
)  # fmt: skip
def test_headers_that_lie_are_refused(header, message, tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(24))
    refused(lambda: safe_files.open_npy(tmp_path / "a.npy"), rf"a\.npy: .*{message}")


def bomb(path, told=None):
    """512 MiB of zeros in 512 KiB; the directory says that there are `told` bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w") as member:
            shape = ((told or (512 << 20) + 128) - 128,)
            member.write(npy(np.zeros(1, np.uint8))[:128].replace(b"(1,)", str(shape).encode())[:128].ljust(128))
            for _ in range(512):
                member.write(bytes(1 << 20))
        if told:
            archive.infolist()[0].file_size = told


def test_zip_bombs_are_refused_before_they_are_unpacked(tmp_path):
    bomb(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    refused(lambda: open_first(tmp_path / "a.npz"), "536,871,040 bytes unpacked with array x, the limit is 268,435,456")


def test_no_more_is_unpacked_than_the_directory_says(tmp_path):
    bomb(tmp_path / "a.npz", told=1 << 20)
    refused(lambda: open_first(tmp_path / "a.npz"), "array x: ")


def test_arrays_count_together(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(1000), b=np.zeros(1000))
    with safe_files.open_npz(tmp_path / "a.npz", 10_000) as arrays:
        assert arrays["a"].shape == (1000,)
        with pytest.raises(ValueError, match="16,256 bytes unpacked with array b, the limit is 10,000"):
            arrays["b"]


def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"\x93NUMPY")
    refused(lambda: open_first(path), "not an .npz file")
    path.write_bytes(b"")
    refused(lambda: open_first(path), "not an .npz file")
    path.write_bytes(b"PK\3\4" + bytes(100))
    refused(lambda: open_first(path), "damaged or truncated")
    entries = b"PK\1\2" + bytes(42)
    path.write_bytes(b"PK\3\4" + entries * 2000 + b"PK\5\6" + struct.pack("<8xLL2x", 46 * 2000, 4))
    refused(lambda: open_first(path), "more than 1,000 members")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy(np.zeros(3)))
    refused(lambda: open_first(path), "array x has compression method 14")
    np.savez(path, a=np.zeros(3))
    content = path.read_bytes()
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.npy", npy(np.zeros(3)))
    refused(lambda: open_first(path), "two arrays a")
    path.write_bytes(content.replace(np.zeros(3).tobytes(), np.ones(3).tobytes()))
    refused(lambda: open_first(path), "array a: Bad CRC")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 1_000_000, "nested|JSON"),
        (b"[" * 40 + b"]" * 40, "nested deeper than 32 levels"),
        (b"[" * 900 + b"]" * 900, "nested deeper than 32 levels"),
        (b"[]", "holds a list, expected a dict"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not readable as JSON"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b" " * ((1 << 20) + 1), "1,048,577 bytes, the limit is 1,048,576"),
    ],
)
def test_json_is_bounded(content, message, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    refused(lambda: safe_files.read_json(tmp_path / "a.json"), rf"a\.json: .*({message})")


def test_json_of_many_values_is_refused_before_it_is_parsed(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[" + b"{}," * (1 << 21) + b"{}]")
    with pytest.raises(ValueError, match="4,194,306 values, the limit is 2,097,152"):
        safe_files.read_json(tmp_path / "a.json", list, 64 << 20)


def test_json_within_bounds_is_read(tmp_path):
    value = {"a": [1, 2.5, None, {"b": "é"}]}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert safe_files.read_json(tmp_path / "a.json") == value
