"""Open a torch.save file of torch before 1.6: pickles, one of them the tree, then one storage after another."""

import io
import pickletools
import struct
import sys

from spectral_jax.files.torch_archive import RECORDS, UNFOLD, Archive, TorchFileError
from spectral_jax.files.torch_pickle import OPCODES, interpret

SIGNATURE = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."  # a magic number and the version 1001, pickled
)


def open_legacy(data: bytes, pickle_bytes: int) -> Archive:
    """Find the tree and the storages in `data`, as the records of an archive. Raises TorchFileError.

    The size of a storage is in the tree alone, so the tree is interpreted here once, without its storages.
    """
    _, start = _pickle(data, len(SIGNATURE), pickle_bytes)  # of the machine that wrote the file
    pickled, end = _pickle(data, start, pickle_bytes)
    listed, place = _pickle(data, end, pickle_bytes)
    archive = Archive(data, {"data.pkl": (start, end - start, None)}, swapped=sys.byteorder != "little")
    archive.allowance, archive.named = UNFOLD * len(pickled), {}
    interpret(pickled, archive)
    named, archive.named = archive.named, None
    keys = interpret(listed, Archive(b"", {}, allowance=UNFOLD * len(listed)))
    if not isinstance(keys, list) or len(keys) > RECORDS:
        raise TorchFileError(f"has no list of at most {RECORDS:,} storages")
    for key in keys:
        if key not in named:
            raise TorchFileError(f"has a storage {key!r:.80} that no tensor has")
        size, count = named[key].size, named[key].size // named[key].dtype.itemsize
        if data[place : place + 8] != struct.pack("<q", count) or place + 8 + size > len(data):
            raise TorchFileError(f"storage {key!r} should have {count:,} numbers, the file has others (truncated?)")
        archive.records[f"data/{key}"] = place + 8, size, None
        place += 8 + size
    return archive


def _pickle(data: bytes, start: int, most: int) -> tuple[bytes, int]:
    """The pickle that begins at `start`, and where it ends."""
    content = data[start : start + most]
    stream = io.BytesIO(content)
    for count, _ in enumerate(pickletools.genops(stream)):
        if count >= OPCODES:
            raise TorchFileError(f"has a pickle of more than {OPCODES:,} opcodes")
    return content[: stream.tell()], start + stream.tell()
