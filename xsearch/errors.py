"""Errors carry what is wrong and the command that mends it; `cli/` prints them as one line."""

import shlex
from pathlib import Path


def command(*words: str | Path) -> str:
    """Return a command line as a remedy names it: in backquotes, and between them as a shell takes it."""
    return f"`{shlex.join(map(str, words))}`"


def index_command(library: str | Path) -> str:
    """Return the command that makes a library there, or brings it up to date."""
    return command("xsearch", "index", "SOURCE", "--data", library)


def repair_command(library: str | Path) -> str:
    """Return the command that mends the library in that folder."""
    return command("xsearch", "verify", "--repair", "--data", library)


class XSearchError(Exception):
    """Base of all errors that a person can mend. `remedy` is a sentence or a command, may be empty."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class LibraryNotFound(XSearchError):
    """There is no library in that folder."""


class LibraryDamaged(XSearchError):
    """Something that the manifest promises is missing or altered."""


class CommitGone(XSearchError):
    """The files of a commit are not there any more, as there is a newer one."""


class PartUnavailable(XSearchError):
    """A part of a library that is served by several machines does not answer."""


class LibraryTooNew(XSearchError):
    """A later version of xsearch wrote it."""


class LibraryLocked(XSearchError):
    """Another process is writing."""


class EncoderMismatch(XSearchError):
    """The library's vectors and the asked encoder do not live in one space."""


class EncoderUnavailable(XSearchError):
    """The encoder cannot be opened: unknown name, missing package, unreachable weights."""


class SourceError(XSearchError):
    """A source as a whole cannot be read: it is missing, or lacks a named column."""


class ClusterError(XSearchError):
    """A machine of a cluster, or all of them, cannot do their part: not there, without a package, space or a mount."""


class QueryError(XSearchError):
    """The query is empty or contradicts itself."""


class Undecodable(XSearchError):
    """One file cannot become an item. `reason` is a short constant to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
