"""Open the zip archive of a torch.save file. The place of every record is checked before any record is read."""

import io
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FILE_BYTES = 1 << 30
RECORDS = 1 << 15  # zipfile takes a kilobyte of memory for each
UNFOLD = 16  # nodes of the tree per byte of pickle, and bytes of arrays per byte of file, at most

_AGAIN = "save it again with torch.save of torch >= 1.6"
_OTHER_FORMATS = (  # offset and signature of files that are not zip archives, and the message for each
    (0, b"PK\3\4", "is a truncated zip archive (the directory at its end is missing)"),
    (0, b"\x80", f"is a bare pickle; {_AGAIN}"),
    (257, b"ustar", f"is a tar archive (the format of torch < 0.2, perhaps); {_AGAIN}"),
    (0, b"\x89HDF", f"is an HDF5 file; {_AGAIN}"),
    (0, b"\x93NUMPY", f"is a NumPy .npy file; {_AGAIN}"),
    (0, b"\x1f\x8b", "is a gzip file; decompress it first"),
    (0, b"version https://git-lfs", "is a Git LFS pointer; fetch the file itself (git lfs pull)"),
    (0, b"<", "is an HTML or XML page (a failed download?)"),
)


class TorchFileError(ValueError):
    """Raised for a file that is damaged, in another format, or holds more than tensors and plain containers."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else "?" for c in message[:1000]))


@dataclass
class Archive:
    """An open archive and what reading its pickle keeps track of.

    Attributes:
      data: the whole file.
      records: start, size and CRC-32 (None if the format has none) of each record, by name.
      top: the folder of the archive that holds the records, with its slash.
      swapped: whether the file's byte order is not this machine's.
      allowance: items that the pickle may still copy.
      storages: storages read so far, uint8, by key and dtype.
      named: storages that the pickle names, by key, while none is read yet; tensors are then empty.
    """

    data: bytes
    records: dict[str, tuple[int, int, int | None]]
    top: str = ""
    swapped: bool = False
    allowance: int = 0
    storages: dict[tuple[str, np.dtype], np.ndarray] = field(default_factory=dict)
    named: dict[str, Any] | None = None


def open_archive(data: bytes) -> Archive:
    """Open the archive in `data` and check the place of every record. Raises TorchFileError."""
    if data.rfind(b"PK\5\6", max(0, len(data) - 22 - 0xFFFF)) < 0:
        kinds = (words for offset, signature, words in _OTHER_FORMATS if data.startswith(signature, offset))
        raise TorchFileError(next(kinds, f"is not a zip archive; {_AGAIN}" if data else "is empty"))
    if (count := data.count(b"PK\1\2")) > RECORDS:
        raise TorchFileError(f"has {count:,} records, the limit is {RECORDS:,}")
    records = {}
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in zipped.namelist()):
            raise TorchFileError("is a TorchScript archive; save the module's state_dict() with torch.save instead")
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
    tops = [name[:-8] for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(tops) != 1:
        kind = "a NumPy .npz file" if any(name.endswith(".npy") for name in records) else "a zip archive"
        raise TorchFileError(f"is {kind} with {len(tops)} records named data.pkl, expected 1 as torch.save writes")
    archive = Archive(data, records, tops[0])
    order = bytes(read_record(archive, "byteorder")) if f"{tops[0]}byteorder" in records else b"little"
    if order not in (b"little", b"big"):
        raise TorchFileError(f"has the byte order {order[:20]!r}, expected b'little' or b'big'")
    archive.swapped = order.decode() != sys.byteorder
    return archive


def read_record(archive: Archive, name: str) -> memoryview:
    """Return the bytes of a record. Raises TorchFileError when its checksum is wrong."""
    start, size, crc = archive.records[archive.top + name]
    content = memoryview(archive.data)[start : start + size]
    if crc is not None and zlib.crc32(content) != crc:
        raise TorchFileError(f"record {name[:80]!r} is damaged (its checksum is wrong)")
    return content


def spend(archive: Archive, amount: int) -> None:
    """Subtract from the allowance of items that the pickle may copy. Raises TorchFileError when it is used up."""
    archive.allowance -= amount
    if archive.allowance < 0:
        raise TorchFileError(f"unfolds to more than {UNFOLD} times its size")
