"""Pictures by address: http and https, of bounded size and time."""

import http.client
import time
import urllib.error
import urllib.request

from xsearch.errors import QueryError

MAX_BYTES = 64 << 20
TIMEOUT_S = 20.0
_BLOCK = 1 << 16


def fetch(url: str) -> bytes:
    """Return what an http(s) address holds. Raises QueryError if it cannot be had within MAX_BYTES and TIMEOUT_S."""
    until_s = time.monotonic() + TIMEOUT_S
    data = bytearray()
    request = urllib.request.Request(url, headers={"User-Agent": "xsearch"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            while block := response.read(_BLOCK):
                data += block
                if len(data) > MAX_BYTES:
                    raise QueryError(f"{url} has more than {MAX_BYTES >> 20} MB", remedy="name a smaller picture")
                if time.monotonic() > until_s:
                    raise TimeoutError("it takes too long")
    except urllib.error.HTTPError as error:
        raise QueryError(f"{url}: {error.code} {error.reason}", remedy="check the address") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise QueryError(f"{url} cannot be fetched: {reason}", remedy="check the address and the network") from error
    return bytes(data)
