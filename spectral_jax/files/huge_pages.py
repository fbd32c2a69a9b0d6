"""Memory in pages of 2 MB for large arrays, where Linux gives them to programs that ask."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # "always [madvise] never"
TUNABLES = "GLIBC_TUNABLES"  # of the C library, which reads them when a process starts
TUNABLE = "glibc.malloc.hugetlb"


def ask_for() -> None:
    """Start this process again, at once and with the same arguments, so that the C library asks for huge pages.

    Nothing happens where the system gives them to every program or to none, or where GLIBC_TUNABLES decides already.
    They are worth about a tenth of a training step, and most of the time that the system spends on new memory. Call it
    before anything else.
    """
    tunables = os.environ.get(TUNABLES, "")
    if TUNABLE in tunables or not _given_on_request():
        return
    os.environ[TUNABLES] = ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _given_on_request() -> bool:
    try:
        return "[madvise]" in SETTING.read_text()
    except OSError:  # no Linux
        return False
