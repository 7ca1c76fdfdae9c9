"""A contact sheet: hits as one HTML page that needs nothing beside it."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

from xsearch.cli.output import short, shortened
from xsearch.errors import SourceError, Undecodable
from xsearch.media.images import thumbnail
from xsearch.types import Hit, Kind

THUMBNAIL_PX = 320

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem; background: light-dark(#fafafa, #161616); color: light-dark(#222, #ddd); }
h1 { font-size: 1.3rem; font-weight: 600; }
main { display: flex; flex-wrap: wrap; gap: 14px; }
figure { margin: 0; flex: 1 1 auto; max-width: 480px; display: flex; flex-direction: column; }
figure img { height: 220px; width: 100%; object-fit: cover; border-radius: 6px; background: #8884; }
figure p { height: 200px; margin: 0; padding: 10px; overflow: auto; width: 300px; border-radius: 6px;
           background: light-dark(#fff, #222); }
figcaption { padding: 4px 2px; font-size: .8rem; max-width: 300px; overflow: hidden; text-overflow: ellipsis;
             white-space: nowrap; }
a { color: inherit; text-decoration: none; }
b { font-variant-numeric: tabular-nums; }
"""


def contact_sheet(title: str, hits: Iterable[Hit]) -> str:
    """Return the page: pictures small, upright and in the file itself, each a link to its original."""
    figures = "\n".join(_figure(hit) for hit in hits)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)} · xsearch</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f"<h1>{escape(title)}</h1>\n<main>\n{figures}\n</main>\n</html>\n"
    )


def _figure(hit: Hit) -> str:
    link = escape(hit.item.file.as_uri())
    caption = f"<b>{hit.rank}</b> · {hit.score:.3f} · {escape(Path(hit.path).name)}"
    return (
        f'<figure><a href="{link}" title="{escape(short(hit.path))}">{_content(hit)}</a>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _content(hit: Hit) -> str:
    if hit.kind is Kind.TEXT:
        return f"<p>{escape(hit.text or '')}</p>"
    try:
        small = base64.b64encode(thumbnail(hit.open(), THUMBNAIL_PX)).decode()
    except (OSError, SourceError, Undecodable) as error:
        return f"<p>{escape(shortened(f'the picture cannot be shown: {error}'))}</p>"
    return f'<img alt="{escape(Path(hit.path).name)}" src="data:image/jpeg;base64,{small}">'
