"""The command `xsearch`: the place where errors become messages and exit codes."""

import sys
import traceback
from typing import NoReturn

from xsearch.errors import XSearchError

# 0 found or done, 1 nothing found, 2 wrong use or broken input, as `xsearch --help` says.
BROKEN = 2
INTERRUPTED = 130


def main() -> None:
    """Run the command line. An error is one line that says what is wrong and what mends it."""
    from xsearch.cli.app import app

    # Taken out here, so that it may stand anywhere.
    debug = "--debug" in sys.argv
    try:
        app([argument for argument in sys.argv[1:] if argument != "--debug"], prog_name="xsearch")
    except KeyboardInterrupt:
        _end("interrupted; what was committed stays, and the same command goes on from there", INTERRUPTED, debug=debug)
    except XSearchError as error:
        _end(str(error), BROKEN, debug=debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(f"{where}{error.strerror or error}; what was committed before stays", BROKEN, debug=debug)


def _end(message: str, code: int, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    print(f"xsearch: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
