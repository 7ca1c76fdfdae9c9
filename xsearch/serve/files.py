"""The files of items, as far as they may be handed out: what was indexed, and nothing else that lies in its place."""

import os
from pathlib import Path
from stat import S_ISREG
from urllib.parse import quote

from starlette.responses import FileResponse, Response

from xsearch.serve.models import Refused
from xsearch.types import Item, Kind

HEAD_BYTES = 32

_FILMS = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".ogv": "video/ogg",
    ".3gp": "video/3gpp",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
    ".ts": "video/mp2t",
    ".avi": "video/x-msvideo",
}
_BRANDS = {b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic", b"heix": "image/heic"}


def is_sample(item: Item) -> bool:
    """Whether an item is a picture inside an archive or data set."""
    return item.kind is Kind.IMAGE and bool(item.part)


def indexed_file(item: Item) -> os.stat_result:
    """Return what the system says of an item's file. Raises Refused (404) unless it is the one that was indexed.

    It is by size and time, as `xsearch index` tells: whoever can write to a folder of pictures shall not have other
    files handed out by putting links in their place. Of items whose embeddings were made elsewhere neither is known;
    then it is a picture by its content.
    """
    try:
        status = item.file.stat()
    except (OSError, ValueError) as error:
        raise Refused(404, f"{item.file} is not there any more", remedy="`xsearch index` takes it out") from error
    is_known = item.mtime_ns > 0
    if S_ISREG(status.st_mode):
        if is_known and (status.st_size, status.st_mtime_ns) == (item.bytes, item.mtime_ns):
            return status
        if not is_known and _picture_type(_head(item.file)) is not None:
            return status
    raise Refused(404, f"{item.file} is not what was indexed", remedy="`xsearch index` takes in what it is now")


def file_response(item: Item) -> Response:
    """Return the file of an item, of a frame its film, whole or in ranges. Raises Refused, OSError."""
    status = indexed_file(item)
    headers = _headers(item, _head(item.file), item.file.name)
    return FileResponse(item.file, headers=headers, media_type=headers["Content-Type"], stat_result=status)


def bytes_response(item: Item, data: bytes, name: str) -> Response:
    """Return what an item is inside its file: a picture, or a text."""
    return Response(data, headers=_headers(item, data[:HEAD_BYTES], name))


def _headers(item: Item, head: bytes, name: str) -> dict[str, str]:
    """Return headers under which a browser shows what cannot run, and saves all else: texts too may be HTML."""
    media_type = None if item.kind is Kind.TEXT else _picture_type(head)
    if item.kind is Kind.FRAME:
        media_type = media_type or _FILMS.get(item.file.suffix.lower())
    return {
        "Content-Type": media_type or "application/octet-stream",
        "Content-Disposition": f"{'inline' if media_type else 'attachment'}; filename*=utf-8''{quote(name, safe='')}",
        "Cache-Control": "private, no-cache",
    }


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _picture_type(head: bytes) -> str | None:
    """Return the media type of a picture that browsers show and that cannot run, by its content."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
