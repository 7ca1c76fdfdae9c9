"""A process of `decoders.ProcessDecoder`: `python -m xsearch.media.decode_worker PIPE MEMORY`, both open descriptors.

It is told the frame, and says that it is ready. Then it takes the bytes of one file at a time, leaves the framed pixels
in the memory, and answers what the camera wrote: an ImageMeta, or reason and detail of an Undecodable, or what else was
raised. It ends with the pipe.
"""

import mmap
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from xsearch.errors import Undecodable
from xsearch.media.images import decode_image

OOM_SCORE = 500
"""Where memory runs out, Linux shall end a decoder, which is replaced, and not the run that started it."""


def main() -> None:
    """Answer until the pipe ends."""
    link, memory = Connection(int(sys.argv[1])), mmap.mmap(int(sys.argv[2]), 0)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    slot = np.frombuffer(memory, np.uint8)
    with suppress(EOFError, ConnectionError):
        frame, image_px = link.recv()
        link.send("ready")
        while True:
            data = link.recv_bytes()
            try:
                pixels, meta = decode_image(data, image_px)
                slot[:] = frame.pixels(pixels).ravel()
            except Undecodable as error:
                link.send((error.reason, error.detail))
            except Exception as error:  # a fault of ours: it ends the run, as it would in a thread
                link.send(error)
            else:
                link.send(meta)


if __name__ == "__main__":
    main()
