"""The command `xsearch`: the place where errors become messages and exit codes."""

import os
import sys
import traceback
from io import TextIOWrapper
from typing import NoReturn

from xsearch.errors import XSearchError

# 0 found or done, 1 nothing found, 2 wrong use or broken input, as `xsearch --help` says.
BROKEN = 2
INTERRUPTED = 130


def main() -> None:
    """Run the command line. An error is one line that says what is wrong and what mends it."""
    # Taken out here, so that it may stand anywhere.
    debug = "--debug" in sys.argv
    try:
        from xsearch.cli.app import run

        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 shows what it can
        code = run([argument for argument in sys.argv[1:] if argument != "--debug"])
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end("interrupted; what an index run has committed stays, and the next one goes on", INTERRUPTED, debug=debug)
    except BrokenPipeError:
        # `xsearch ... | head`: the reader has enough, and what is still in the buffer shall not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except XSearchError as error:
        _end(str(error), BROKEN, debug=debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(f"{where}{error.strerror or error}; --debug shows where it happened", BROKEN, debug=debug)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        _end(f"{what}; this is a fault of xsearch: please report what --debug shows", BROKEN, debug=debug)
    sys.exit(code)


def _end(message: str, code: int, *, debug: bool) -> NoReturn:
    from xsearch.cli.output import warn

    if debug:
        traceback.print_exc()
    warn(message)
    sys.exit(code)
