"""Archives as torch.save writes them, and others that nobody wrote: made by hand, without torch."""

import io
import json
import math
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from spectral_jax.files.torch_file import save


def archive(
    pickled: bytes, storages: Mapping[str, bytes] = MappingProxyType({}), top: str = "archive", **records: bytes
) -> bytes:
    """A zip archive with the records of torch.save."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr(f"{top}/data.pkl", pickled)
        for key, content in storages.items():
            zipped.writestr(f"{top}/data/{key}", content)
        for name, content in records.items():
            zipped.writestr(f"{top}/{name}", content)
    return buffer.getvalue()


def integer(n: int) -> bytes:
    return pickle.dumps(n, 2)[2:-1]


def tensor(
    size: tuple, stride: tuple, offset: int = 0, count: int = 4, storage: bytes = b"torch\nFloatStorage", key="0"
) -> bytes:
    """The opcodes that make a tensor."""
    identity = b"(X\7\0\0\0storagec" + storage + b"\nX" + struct.pack("<I", len(key)) + key.encode()
    shape = b"".join(b"(" + b"".join(map(integer, part)) + b"t" for part in (size, stride))
    identity += b"X\3\0\0\0cpu" + integer(count) + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + identity
        + integer(offset)
        + shape
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def legacy(value: bytes, storage: np.ndarray, count: int | None = None) -> bytes:
    """A file of torch before 1.6: the opcodes of a value and the float32 storage "0"."""
    start = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03." + pickle.dumps({"little_endian": True}, 2)
    size = struct.pack("<q", storage.size if count is None else count)
    return start + b"\x80\2" + value + b"." + pickle.dumps(["0"], 2) + size + storage.tobytes()


def headed(header: dict, content: bytes) -> bytes:
    """A .safetensors file with this header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    codes = {"float32": "F32", "bool": "BOOL", "int64": "I64", "bfloat16": "BF16"}
    header, content = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        place = [len(content), len(content) + array.nbytes]
        header[name] = {"dtype": codes[array.dtype.name], "shape": list(array.shape), "data_offsets": place}
        content += array.tobytes()
    return headed(header, content)


def written(tree: object) -> bytes:
    buffer = io.BytesIO()
    save(buffer, tree)
    return buffer.getvalue()


def values(shape: tuple, dtype: np.dtype) -> np.ndarray:
    return np.array(np.arange(math.prod(shape)).reshape(shape) % 3, dtype)


TREE = {
    "weights": OrderedDict(a=values((3, 4), np.dtype("f4")), b=np.array(2.5)),
    3: [1, -5, 2**40, 0.5, (), (None, True)],
}


def members(tar):
    with tarfile.open(tar) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened.getmembers()}


def write_tar(tar, contents, kind=tarfile.PAX_FORMAT):
    with tarfile.open(tar, "w", format=kind) as opened:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 0.5  # a fraction takes a PAX record
            opened.addfile(member, io.BytesIO(content))


def edit_tar(tar, changes):
    """Replace members, or with None remove them."""
    contents = members(tar) | changes
    write_tar(tar, {name: content for name, content in contents.items() if content is not None})


def pth(value):
    stream = io.BytesIO()
    save(stream, value)
    return stream.getvalue()
