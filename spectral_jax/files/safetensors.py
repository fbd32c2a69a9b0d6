"""Read .safetensors files: the length of a JSON header, the header, then the bytes of all tensors."""

import math
import struct

import ml_dtypes
import numpy as np

from spectral_jax.files.safe_files import parse_json
from spectral_jax.files.torch_archive import RECORDS, TorchFileError

HEADER_BYTES = 8 << 20
DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "I64": "<i8", "I32": "<i4", "I16": "<i2",
        "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "C64": "<c8",
        "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    }.items()
}  # fmt: skip


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins as a .safetensors file with a header of less than 16 MiB."""
    return data[3:9] == b"\0\0\0\0\0{"


def read(data: bytes) -> dict[str, np.ndarray]:
    """The tensors by name, read-only. Raises ValueError for a header that the file or the format contradicts."""
    (length,) = struct.unpack_from("<Q", data)
    if length > min(HEADER_BYTES, len(data) - 8):
        raise TorchFileError(f"has a header of {length:,} bytes, the limit is {HEADER_BYTES:,} and the file's size")
    header = parse_json(data[8 : 8 + length], "its header")
    header.pop("__metadata__", None)
    content, total, tensors = memoryview(data)[8 + length :], 0, {}
    if len(header) > RECORDS:
        raise TorchFileError(f"has {len(header):,} tensors, the limit is {RECORDS:,}")
    for name, entry in header.items():
        match entry:
            case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(start), int(end)]} if (
                code in DTYPES and len(shape) <= 64 and all(type(n) is int and 0 <= n < 2**63 for n in shape)
            ):
                dtype = DTYPES[code]
            case _:
                raise TorchFileError(f"has no dtype, shape and offsets of {name[:80]!r} that can be read")
        if not 0 <= start <= end <= len(content) or math.prod(shape) * dtype.itemsize != end - start:
            place = f"bytes {start} to {end} of {len(content)}"
            raise TorchFileError(f"has tensor {name[:80]!r} of {code} and shape {shape!s:.200} in {place:.100}")
        if (total := total + end - start) > len(content):
            raise TorchFileError("has tensors that overlap")
        tensors[name] = _array(content[start:end], dtype).reshape(shape)
        tensors[name].flags.writeable = False
    return tensors


def _array(content: memoryview, dtype: np.dtype) -> np.ndarray:
    """The numbers in native byte order; copied only if they are misaligned or truth values."""
    if dtype == np.bool_:
        return np.frombuffer(content, np.uint8) != 0
    array = np.frombuffer(content, dtype)
    return np.array(array, dtype.newbyteorder("="), copy=None if array.flags.aligned else True)
