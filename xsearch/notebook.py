"""Hits in a notebook: a row of thumbnails, an Arrow table, a pandas data frame."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from xsearch.errors import SourceError, Undecodable, XSearchError
from xsearch.media.images import thumbnail
from xsearch.types import Hit, Kind

if TYPE_CHECKING:
    import pandas as pd

MAX_SHOWN = 24
"""More would make the notebook's file large: each thumbnail is in it, at about 10 kB."""

THUMBNAIL_PX = 240
TEXT_CHARS = 400

HITS = pa.schema(
    [
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("confidence", pa.float64()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("t_start_s", pa.float64()),
        pa.field("t_end_s", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
)
"""The columns of hits, as `Hit.to_dict` names them.

`score` is a cosine, `confidence` 0 to 1, null where an answer has none. `kind` is image, frame or text. Times are
seconds from the start of a film, null outside of films. `text` is what a text says, or one that speaks for a picture.
`width` and `height` are pixels of the original.
"""

_ROW = "display: flex; gap: 12px; overflow-x: auto; align-items: flex-start"
_CELL = "flex: none; max-width: 270px; margin: 0"
_IMAGE = "height: 150px; max-width: 100%; object-fit: cover; border-radius: 4px"
_TEXT = "width: 220px; height: 150px; margin: 0; overflow: auto; white-space: normal"
_CAPTION = "font-size: 85%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap"


def html(hits: Sequence[Hit], *, good_match: bool) -> str:
    """Return the first MAX_SHOWN hits as a row of thumbnails and texts, which needs nothing beside it.

    A picture that is gone is told so in its place. `good_match` is that of the answer: without one, the row says so.
    """
    if not hits:
        return "<p>nothing found: the library holds no such item</p>"
    said = "" if good_match else "<p>no good match; the nearest are</p>"
    cells = "".join(_cell(hit) for hit in hits[:MAX_SHOWN])
    more = f"<p>and {len(hits) - MAX_SHOWN:,} more</p>" if len(hits) > MAX_SHOWN else ""
    return f'{said}<div style="{_ROW}">{cells}</div>{more}'


def arrow_table(hits: Sequence[Hit]) -> pa.Table:
    """Return one row a hit, best first, with the columns `HITS`."""
    return pa.Table.from_pylist([hit.to_dict() for hit in hits], HITS)


def data_frame(hits: Sequence[Hit]) -> "pd.DataFrame":
    """Return `arrow_table` for pandas; pixels stay whole numbers, <NA> where there are none.

    Raises XSearchError if pandas is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise XSearchError("pandas is not installed", remedy="pip install pandas, or use `to_arrow`") from error
    return arrow_table(hits).to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)


def _cell(hit: Hit) -> str:
    sure = "" if hit.confidence is None else f" · {hit.confidence:.0%}"
    when = "" if hit.t_start_s is None or hit.t_end_s is None else f" · {hit.t_start_s:.1f}-{hit.t_end_s:.1f} s"
    caption = f"<b>{hit.rank}</b>{sure}{when} · {escape(Path(hit.path).name)}"
    return (
        f'<figure style="{_CELL}" title="{escape(hit.path)}">{_content(hit)}'
        f'<figcaption style="{_CAPTION}">{caption}</figcaption></figure>'
    )


def _content(hit: Hit) -> str:
    if hit.kind is Kind.TEXT:
        return _paragraph(hit.text or "")
    try:
        jpeg = thumbnail(hit.open(), THUMBNAIL_PX)
    except (OSError, SourceError, Undecodable) as error:
        return _paragraph(f"the picture cannot be shown: {error}")
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return f'<img alt="{escape(Path(hit.path).name)}" src="{source}" style="{_IMAGE}">'


def _paragraph(text: str) -> str:
    shown = text if len(text) <= TEXT_CHARS else f"{text[: TEXT_CHARS - 1]}…"
    return f'<p style="{_TEXT}">{escape(shown)}</p>'
