"""Open a torch.save file of torch before 1.6: pickles, one of them the tree, then one storage after another."""

import io
import pickle  # only to write these numbers
import pickletools
import struct
import sys

from spectral_jax.files.torch_archive import RECORDS, UNFOLD, Archive, TorchFileError
from spectral_jax.files.torch_pickle import OPCODES, interpret

# How a file begins: a magic number and the version 1001, each a pickle of protocol 2 to 5.
SIGNATURES = tuple(
    b"".join(pickle.dumps(number, protocol) for number in (0x1950A86A20F9469CFC6C, 1001)) for protocol in range(2, 6)
)


def open_legacy(data: bytes, pickle_bytes: int) -> Archive:
    """Find the tree and the storages in `data`, as the records of an archive. Raises TorchFileError.

    The size of a storage is in the tree alone, so the tree is interpreted here once, without its storages.
    """
    signature = next(signature for signature in SIGNATURES if data.startswith(signature))
    _, start = _pickle(data, len(signature), pickle_bytes)  # of the machine that wrote the file
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
