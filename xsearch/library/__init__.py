"""The library: what was indexed, on disk, and its promises. The owner of pyarrow."""

from xsearch.library.check import Fault, faults, recover
from xsearch.library.library import FileState, Library
from xsearch.library.manifest import IndexEntry, Manifest
from xsearch.library.writer import LibraryWriter

__all__ = ["Fault", "FileState", "IndexEntry", "Library", "LibraryWriter", "Manifest", "faults", "recover"]
