"""The zip archive of a torch.save file: the place and checksum of every record, checked before anything is read."""

import io
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass, field

import numpy as np

FILE_BYTES = 1 << 30
RECORDS = 1 << 15  # each takes a kilobyte of memory
UNFOLD = 16  # limit of nodes per byte of pickle, and of bytes of arrays per byte of file

_AGAIN = "save it again with torch.save of torch >= 1.6"
_OTHER_FORMATS = (  # offset, signature, what to say of a file that is no zip archive
    (0, b"PK\3\4", "is a truncated zip archive (the directory at its end is missing)"),
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", f"is in the format of torch < 1.6; {_AGAIN}"),
    (0, b"\x80", f"is a bare pickle; {_AGAIN}"),
    (257, b"ustar", f"is a tar archive (the format of torch < 0.2, perhaps); {_AGAIN}"),
    (8, b'{"', f"is a safetensors file; {_AGAIN}"),
    (0, b"\x89HDF", f"is an HDF5 file; {_AGAIN}"),
    (0, b"\x93NUMPY", f"is a NumPy .npy file; {_AGAIN}"),
    (0, b"\x1f\x8b", "is a gzip file; decompress it first"),
    (0, b"version https://git-lfs", "is a Git LFS pointer; fetch the file itself (git lfs pull)"),
    (0, b"<", "is an HTML or XML page (a failed download?)"),
)


class TorchFileError(ValueError):
    """A file that is damaged, of another format, or asks for more than tensors and plain containers."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else "?" for c in message[:1000]))


@dataclass
class Archive:
    data: bytes
    records: dict[str, tuple[int, int, int]]  # name: start, size, CRC-32
    top: str = ""
    swapped: bool = False  # the file's byte order is not this machine's
    allowance: int = 0  # how many items may still be copied within the pickle
    storages: dict[tuple[str, np.dtype], np.ndarray] = field(default_factory=dict)


def open_archive(data: bytes) -> Archive:
    """The archive in `data`, the place of every record checked."""
    if data.rfind(b"PK\5\6", max(0, len(data) - 22 - 0xFFFF)) < 0:
        kinds = (words for offset, signature, words in _OTHER_FORMATS if data.startswith(signature, offset))
        raise TorchFileError(next(kinds, f"is not a zip archive; {_AGAIN}" if data else "is empty"))
    if (count := data.count(b"PK\1\2")) > RECORDS:
        raise TorchFileError(f"has {count:,} records, and at most {RECORDS:,} are read")
    records = {}
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        for info in zipped.infolist():
            name, size = info.filename, info.file_size
            if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED:
                raise TorchFileError(f"record {name[:80]!r} is encrypted or compressed; {_AGAIN}")
            if name in records:
                raise TorchFileError(f"has two records {name[:80]!r}")
            signature, *lengths = struct.unpack_from("<4s22x2H", data, info.header_offset)
            start = info.header_offset + 30 + sum(lengths)
            if signature != b"PK\3\4" or info.compress_size != size or start + size > zipped.start_dir:
                raise TorchFileError(f"record {name[:80]!r} does not fit in the file (truncated or damaged)")
            records[name] = start, size, info.CRC
    if sum(size for _, size, _ in records.values()) > len(data):
        raise TorchFileError("has overlapping records")
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in records):
        raise TorchFileError("is a TorchScript archive; save the module's state_dict() with torch.save instead")
    tops = [name[:-8] for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(tops) != 1:
        kind = "a NumPy .npz file" if any(name.endswith(".npy") for name in records) else "a zip archive"
        raise TorchFileError(f"is {kind} with {len(tops)} records data.pkl, not a file of torch.save")
    archive = Archive(data, records, tops[0])
    order = bytes(read_record(archive, "byteorder")) if f"{tops[0]}byteorder" in records else b"little"
    if order not in (b"little", b"big"):
        raise TorchFileError(f"has the unknown byte order {order[:20]!r}")
    archive.swapped = order.decode() != sys.byteorder
    return archive


def read_record(archive: Archive, name: str) -> memoryview:
    """The bytes of a record, its checksum verified."""
    start, size, crc = archive.records[archive.top + name]
    content = memoryview(archive.data)[start : start + size]
    if zlib.crc32(content) != crc:
        raise TorchFileError(f"record {name[:80]!r} is damaged (its checksum is wrong)")
    return content


def spend(archive: Archive, amount: int) -> None:
    """Takes from what may be copied within the pickle."""
    archive.allowance -= amount
    if archive.allowance < 0:
        raise TorchFileError(f"unfolds to more than {UNFOLD} times its size")
