"""`blank.bin`: which pictures were read and hold no text, by content hash, so that none is read twice.

A cache: what is missing in it is read once more. Hashes of 16 bytes are appended; one that a crash cut off is dropped.
"""

import os
from collections.abc import Iterable
from pathlib import Path

BLANK = "blank.bin"
HASH_BYTES = 16


def read_blank(folder: Path) -> set[str]:
    """Return the content hashes in hex, none where there is no such file yet."""
    try:
        data = (folder / BLANK).read_bytes()
    except FileNotFoundError:
        return set()
    return {data[at : at + HASH_BYTES].hex() for at in range(0, len(data) - HASH_BYTES + 1, HASH_BYTES)}


def add_blank(folder: Path, content_hashes: Iterable[str]) -> None:
    """Add pictures durably, by their content hashes. The caller holds the library's lock."""
    data = b"".join(map(bytes.fromhex, content_hashes))
    if not data:
        return
    with (folder / BLANK).open("ab") as file:
        file.truncate(file.tell() - file.tell() % HASH_BYTES)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
