"""Who decodes the pictures of a run: threads of this process, or processes that hand over finished pixels.

Threads suit an encoder that computes on the same cores. One that computes on a GPU waits for decoding alone, and there
threads lose to Python's lock: so processes decode, as many as there are cores, and bring each picture to the size that
the encoder sees before they hand it over, through memory that both sides map.
"""

import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Pipe
from queue import LifoQueue
from typing import Protocol, Self

import numpy as np

from xsearch.ahead import usable_cores
from xsearch.errors import Undecodable, XSearchError
from xsearch.media.images import ImageMeta, decode_image
from xsearch.types import RGBImage

ATTEMPTS = 2
"""A process may have been killed for what its neighbours took; at the second death it is the picture's doing."""

WORKER = (sys.executable, "-P", "-m", "xsearch.media.decode_worker")


class Decoder(Protocol):
    """Turns files of pictures into pixels. Safe to call from `at_once` threads; a context that ends what it started."""

    @property
    def at_once(self) -> int:
        """So many calls at the same time keep it busy."""
        ...

    def decode(self, data: bytes) -> tuple[RGBImage, ImageMeta]:
        """Return upright pixels in sRGB, and what the camera wrote beside them. Raises Undecodable."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...


class Frame(Protocol):
    """How an encoder wants its pictures, height x width. Is pickled."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def pixels(self, image: RGBImage) -> RGBImage:
        """Return (height, width, 3)."""
        ...


class ThreadDecoder:
    """Decodes in the thread that asks; both sides stay at least `image_px` long, as `decode_image` says."""

    def __init__(self, image_px: int, *, threads: int | None = None) -> None:
        self._image_px = image_px
        self.at_once = threads or os.cpu_count() or 1

    def decode(self, data: bytes) -> tuple[RGBImage, ImageMeta]:
        return decode_image(data, self._image_px)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        pass


class ProcessDecoder:
    """Decodes in processes of its own, each started when all before it are busy; pictures come framed.

    Each process answers one thread at a time, over a pipe of its own, so that none waits for a lock that a killed one
    held. One that dies is replaced and its picture tried again; what kills two is Undecodable ("decoder killed").
    """

    def __init__(self, frame: Frame, image_px: int, *, processes: int | None = None) -> None:
        self._frame, self._image_px = frame, image_px
        self._processes = processes = processes or usable_cores()
        self._is_closed = False
        # While one picture is decoded, the thread of another reads its file.
        self.at_once = 2 * processes
        # Last in, first out: a run of few pictures starts few processes, one without pictures none.
        self._idle: LifoQueue[_Worker | None] = LifoQueue()
        for _ in range(processes):
            self._idle.put(None)

    def decode(self, data: bytes) -> tuple[RGBImage, ImageMeta]:
        worker = self._idle.get()
        try:
            for _ in range(ATTEMPTS):
                if self._is_closed:
                    raise ValueError("the decoder is closed")
                if worker is None:
                    worker = _Worker(self._frame, self._image_px)
                try:
                    return worker.decode(data)
                except (EOFError, ConnectionError):  # it is no more
                    worker.close()
                    worker = None
            raise Undecodable("decoder killed", "twice, out of memory or by a fault in a codec")
        finally:
            self._idle.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._is_closed = True
        # Each comes back when its picture is done; what still waits for one gets it back, to see that it is too late.
        for worker in [self._idle.get() for _ in range(self._processes)]:
            if worker is not None:
                worker.close()
            self._idle.put(None)


class _Worker:
    """One process, and the memory in which it leaves the pixels of a picture."""

    def __init__(self, frame: Frame, image_px: int) -> None:
        self._shape = (frame.height, frame.width, 3)
        file = _shared_file(frame.height * frame.width * 3)
        self._link, theirs = Pipe()
        try:
            self._memory = mmap.mmap(file, 0)
            arguments = [*WORKER, str(theirs.fileno()), str(file)]
            # What this process imports from, also where that was set in Python; and in a session of its own, since
            # Ctrl-C is for the run, which ends its decoders when it has committed.
            paths = os.pathsep.join(path for path in sys.path if path)
            self._process = subprocess.Popen(
                arguments,
                pass_fds=(theirs.fileno(), file),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,
            )
        finally:
            # Held by the process alone from here on, so that its end is the end of the pipe.
            theirs.close()
            os.close(file)
        try:
            self._link.send((frame, image_px))
            self._link.recv()
        except (EOFError, ConnectionError) as error:
            self.close()
            raise XSearchError(
                "a process that decodes pictures ended as it started", remedy=f"see what `{' '.join(WORKER)}` says"
            ) from error

    def decode(self, data: bytes) -> tuple[RGBImage, ImageMeta]:
        """Raises Undecodable, and EOFError or ConnectionError where the process is no more."""
        self._link.send_bytes(data)
        answer: ImageMeta | Sequence[str] | Exception = self._link.recv()
        if isinstance(answer, ImageMeta):
            return np.frombuffer(self._memory, np.uint8).reshape(self._shape).copy(), answer
        if isinstance(answer, Exception):
            raise answer
        raise Undecodable(*answer)

    def close(self) -> None:
        self._link.close()
        self._process.kill()
        self._process.wait()


def _shared_file(size: int) -> int:
    """Return a descriptor of memory that has no name: nothing of it is left, however the processes end."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("xsearch-pixels")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file
