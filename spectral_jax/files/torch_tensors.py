"""Turn the tensors of a torch.save file into NumPy arrays: torch's dtypes, its storages, and views of storages."""

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from spectral_jax.files.torch_archive import Archive, TorchFileError, read_record, spend

STORAGES = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": ml_dtypes.bfloat16, "Long": "i8", "Int": "i4",
        "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?", "ComplexDouble": "c16", "ComplexFloat": "c8",
    }.items()
}  # fmt: skip
DTYPES = {f"torch.{dtype.name}": dtype for dtype in STORAGES.values()} | {
    f"torch.{name}": np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz"),
        *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
}
SCALARS = {dtype.str[1:]: dtype.newbyteorder("<") for dtype in DTYPES.values() if dtype.isbuiltin == 1}


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage as the pickle names it: the key of its record, its dtype (uint8 if untyped), its size in bytes."""

    key: str
    dtype: np.dtype
    size: int


def tensor(archive: Archive, storage: Storage, dtype: np.dtype, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """A read-only array of shape `size` at `offset` in a storage. Offset and strides count elements."""
    if archive.named is not None:
        return np.empty(0, dtype)
    key, width = storage.key, dtype.itemsize
    _, in_file, _ = archive.records.get(f"{archive.top}data/{key}", (0, None, 0))
    if in_file != storage.size:
        raise TorchFileError(f"storage {key!r} should have {storage.size} bytes, the file has {in_file or 'none'}")
    fits = len(size) == len(stride) <= 64
    if not fits or not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *size, *stride)):
        raise TorchFileError(f"has a tensor with an impossible offset, size or stride in storage {key!r}")
    if 0 in size:
        return np.empty(size, dtype)
    if (offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1) * width > storage.size:
        raise TorchFileError(f"has a tensor of size {size} that reaches past the end of storage {key!r}")
    if (key, dtype) not in archive.storages:
        archive.storages[key, dtype] = _storage_bytes(archive, key, dtype)
    return np.ndarray(size, dtype, archive.storages[key, dtype], offset * width, [step * width for step in stride])


def _storage_bytes(archive: Archive, key: str, dtype: np.dtype) -> np.ndarray:
    """The bytes of a storage, uint8, read-only; copied only if they are misaligned or in the other byte order."""
    content = np.frombuffer(read_record(archive, f"data/{key}"), np.uint8)
    content = content[: content.size // dtype.itemsize * dtype.itemsize]
    if archive.swapped and dtype.itemsize > 1:
        word = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
        content = content.view(f"u{word}").byteswap().view(np.uint8)
    elif dtype == np.bool_:
        content = (content != 0).view(np.uint8)
    elif not content.view(dtype).flags.aligned:
        content = content.copy()
    content.flags.writeable = False
    return content


def numpy_array(archive: Archive, content: bytes, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    """A read-only array of the bytes of a pickled NumPy array; `order` is C or F."""
    sizes = type(shape) is tuple and len(shape) <= 32 and all(type(n) is int and 0 <= n < 2**63 for n in shape)
    if not sizes or math.prod(shape) * dtype.itemsize != len(content):
        raise TorchFileError(f"has {len(content):,} bytes for a NumPy array of shape {shape!r:.200} and {dtype}")
    array = np.frombuffer(content, dtype)
    if dtype == np.bool_:
        spend(archive, len(content))
        array = np.frombuffer(content, np.uint8) != 0
        array.flags.writeable = False
    return array.reshape(shape, order=order)
