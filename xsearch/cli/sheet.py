"""A contact sheet: hits, clusters, or the frames of a film, as one HTML page that needs nothing beside it."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from xsearch.cli.output import clock, counted, short, shortened
from xsearch.errors import SourceError, Undecodable
from xsearch.media.images import jpeg, thumbnail
from xsearch.types import Hit, Kind, RGBImage

if TYPE_CHECKING:
    from xsearch.cluster import Cluster
    from xsearch.learning.evaluate import Miss
    from xsearch.summarize import Board

THUMBNAIL_PX = 320

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem; background: light-dark(#fafafa, #161616); color: light-dark(#222, #ddd); }
h1 { font-size: 1.3rem; font-weight: 600; }
h2 { font-size: 1rem; font-weight: 600; margin: 1.6rem 0 .5rem; }
h2 small { font-weight: 400; opacity: .7; }
main, section { display: flex; flex-wrap: wrap; gap: 14px; }
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
    return _page(title, _grid("main", [_hit(hit) for hit in hits]))


def cluster_sheet(title: str, found: "Iterable[Cluster]") -> str:
    """Return the page of clusters: each with its title, its size and its most central items."""
    parts = []
    for cluster in found:
        name = f"{shortened(cluster.title)}{'' if cluster.fits else '?'}"
        size = f"{counted(cluster.size, 'item')}, {cluster.share:.0%} probably show that"
        parts.append(f"<h2>{escape(name)} <small>{size}</small></h2>")
        parts.append(_grid("section", [_hit(hit) for hit in cluster.hits]))
    return _page(title, "\n".join(parts))


def film_sheet(board: "Board", pictures: Iterable[RGBImage]) -> str:
    """Return the page of a film's summary: the pictures of its frames, each a link to its moment in the film."""
    film = board.film.absolute().as_uri()
    figures = []
    for frame, pixels in zip(board.frames, pictures, strict=True):
        title = " ".join((frame.title or "").split())
        caption = f"<b>{clock(frame.t_s)}</b> · shot {frame.shot} · {frame.weight:.0%}<br>{escape(shortened(title))}"
        link = f"{film}#t={frame.t_s:.3f}"  # https://www.w3.org/TR/media-frags/
        figures.append(_figure(link, title, _image(jpeg(pixels), title or clock(frame.t_s)), caption))
    return _page(f"{board.film.name} · {clock(board.duration_s)}", _grid("main", figures))


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)} · xsearch</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f"<h1>{escape(title)}</h1>\n{body}\n</html>\n"
    )


def _grid(tag: str, figures: Iterable[str]) -> str:
    shown = "\n".join(figures)
    return f"<{tag}>\n{shown}\n</{tag}>"


def _figure(link: str, title: str, content: str, caption: str) -> str:
    return (
        f'<figure><a href="{escape(link)}" title="{escape(title)}">{content}</a>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _image(data: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'


def _hit(hit: Hit) -> str:
    link, name = hit.item.file.as_uri(), escape(Path(hit.path).name)
    if hit.t_start_s is not None and hit.t_end_s is not None:
        link += f"#t={hit.t_start_s:.3f}"
        name += f" · {clock(hit.t_start_s)}-{clock(hit.t_end_s)}"
    return _figure(link, short(hit.path), _content(hit), f"<b>{hit.rank}</b> · {hit.score:.3f} · {name}")


def _content(hit: Hit) -> str:
    if hit.kind is Kind.TEXT:
        return f"<p>{escape(hit.text or '')}</p>"
    try:
        small = thumbnail(hit.open(), THUMBNAIL_PX)
    except (OSError, SourceError, Undecodable) as error:
        return f"<p>{escape(shortened(f'the picture cannot be shown: {error}'))}</p>"
    return _image(small, Path(hit.path).name)


def misses_sheet(title: str, misses: "Iterable[Miss]") -> str:
    """Return the page of texts that did not find their picture: the picture, and what stood before it."""
    parts = []
    for miss in misses:
        right = f"<b>right, {miss.rank:,}.</b> · {escape(Path(miss.right.path).name)}"
        shown = [_figure(miss.right.item.file.as_uri(), short(miss.right.path), _content(miss.right), right)]
        parts.append(f"<h2>{escape(shortened(miss.text))}</h2>")
        parts.append(_grid("section", [*shown, *map(_hit, miss.hits)]))
    return _page(title, "\n".join(parts))
