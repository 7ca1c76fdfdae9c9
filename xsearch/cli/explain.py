"""`xsearch explain`: where a picture shows what a text says, as numbers, as a picture, or as a page."""

import base64
from dataclasses import asdict
from html import escape
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsearch.cli.index import model_of
from xsearch.cli.options import DEFAULT_DATA, Data, Json, Model
from xsearch.cli.output import listing, print_json, shortened, warn
from xsearch.errors import XSearchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xsearch.explain import Explanation

PAGE_PX = 1024
TILE_PX = 320
TILES_A_ROW = 4

BLUR = 0.4
"""Standard deviation in regions: enough to hide their squares, too little to move a hot one."""

_LEGEND = (
    "Beside the text its cosine with the picture, beside a word what it adds to that. Bright: the encoder sees the "
    "text, or the word, here more than other texts. Arrow keys go from map to map."
)

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem; background: light-dark(#fafafa, #161616); color: light-dark(#222, #ddd); }
h1 { font-size: 1.3rem; font-weight: 600; }
fieldset { display: flex; flex-wrap: wrap; gap: 8px; border: 0; margin: 0 0 14px; padding: 0; }
label { padding: 4px 12px; border-radius: 6px; cursor: pointer; background: light-dark(#fff, #222); }
label:has(:checked) { background: light-dark(#222, #ddd); color: light-dark(#fff, #111); }
label:has(:focus-visible) { outline: 3px solid #e60; outline-offset: 1px; }
input { position: absolute; opacity: 0; }
small { margin-left: 6px; opacity: .7; font-variant-numeric: tabular-nums; }
figure { position: relative; overflow: hidden; width: fit-content; margin: 0; border-radius: 6px; }
figure img { display: block; max-width: 100%; max-height: 75vh; }
figure svg { position: absolute; visibility: hidden; }
"""


def explain_command(
    text: Annotated[str, typer.Argument(metavar="TEXT", show_default=False, help="What the picture is to show.")],
    picture: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="The picture.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", show_default=False, help="Write a .html page, a .png picture or .json."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", metavar="TEXT", show_default="generic texts", help="What else may be there; repeatable."
        ),
    ] = None,
    data: Data = DEFAULT_DATA,
    model: Model = None,
    json: Json = False,
) -> None:
    """Show where in a picture a text is seen, and which words tell.

    The weight of a word is the cosine of text and picture less that without the word. Heat is from 0 to 1: the chance
    that a region shows the text, or the word, and none of --against. The encoder is that of the library in --data.
    """
    if out is not None and out.suffix.lower() not in (".html", ".png", ".json"):
        raise XSearchError(f"{out} is of no known format", remedy="end its name in .html, .png or .json")
    if out is not None and out.exists() and picture.exists() and out.samefile(picture):
        raise XSearchError(f"{out} is the picture itself", remedy="write to another file")
    from xsearch.encoders import get_encoder
    from xsearch.explain import explain

    found = explain(get_encoder(model or model_of(data)), text, picture, against=against or ())
    if out is not None:
        out.write_bytes(_rendered(found, picture, out.suffix.lower()))
        warn(f"the explanation is {out}")
    if json:
        print_json(_record(found))
    elif out is None:
        listing([("", " score  heat"), *((name, f"{score:>6}  {peak}") for name, score, peak in _rows(found))])


def _rows(found: "Explanation") -> list[tuple[str, str, str]]:
    """Return the text with its cosine, then each word with what it adds to that; and how hot each gets."""
    names = [shortened(found.text, 60), *found.words]
    scores = [f"{found.score:.3f}", *(f"{weight:+.3f}" for weight in found.weights)]
    peaks = [f"{heat.max():.2f}" for heat in _maps(found)]
    return list(zip(names, scores, peaks, strict=True))


def _maps(found: "Explanation") -> "list[NDArray[np.float64]]":
    return [found.heat, *found.word_heat]


def _record(found: "Explanation") -> dict[str, Any]:
    arrays = ("weights", "relevance", "attention", "heat", "word_heat")
    return asdict(found) | {name: getattr(found, name).tolist() for name in arrays}


def _rendered(found: "Explanation", picture: Path, suffix: str) -> bytes:
    from xsearch.heatmap import heated
    from xsearch.media.images import open_image, picture_grid, thumbnail

    if suffix == ".json":
        return dumps(_record(found)).encode()
    if suffix == ".html":
        return explanation_page(found, thumbnail(picture.read_bytes(), PAGE_PX)).encode("utf-8", "xmlcharrefreplace")
    pixels = open_image(thumbnail(picture.read_bytes(), TILE_PX), TILE_PX)
    tiles = [heated(pixels, found, heat) for heat in _maps(found)]
    return picture_grid(tiles, [(name, f"{score}, heat {peak}") for name, score, peak in _rows(found)], TILES_A_ROW)


def explanation_page(found: "Explanation", jpeg: bytes) -> str:
    """Return a page of the picture with a map of the text and of each word, of which one is shown.

    The buttons are radio buttons: arrow keys go through the maps, and no script is needed.
    """
    buttons = [_button(at, name, score) for at, (name, score, _) in enumerate(_rows(found))]
    layers = [_layer(at, found, heat) for at, heat in enumerate(_maps(found))]
    rules = [f"main:has(#button{at}:checked) #map{at} {{ visibility: visible; }}" for at in range(len(layers))]
    picture = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
    title = escape(shortened(found.text))
    lines = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
        f'<title>{title} · xsearch</title>\n<meta name="viewport" content="width=device-width">',
        f"<style>{_STYLE}{chr(10).join(rules)}\n</style>",
        f"<h1>{title}</h1>\n<main>\n<fieldset>",
        *buttons,
        '<label><input type="radio" name="map">picture</label>\n</fieldset>',
        f"<figure>{picture}",
        *layers,
        f"</figure>\n<p>{_LEGEND}</p>\n</main>\n</html>\n",
    ]
    return "\n".join(lines)


def _button(at: int, name: str, score: str) -> str:
    first = " checked autofocus" if at == 0 else ""
    return f'<label><input type="radio" name="map" id="button{at}"{first}>{escape(name)}<small>{score}</small></label>'


def _layer(at: int, found: "Explanation", heat: "NDArray[np.float64]") -> str:
    """Return a map as one square a region, blurred to be smooth, where the encoder saw the picture."""
    from xsearch.heatmap import OPACITY, colours, strength

    rows, columns = found.grid
    box = {name: f"{100 * share:.3f}%" for name, share in asdict(found.frame).items()}
    shares = strength(heat)
    squares = [
        f'<path d="M{region % columns} {region // columns}h1v1h-1z" fill="rgb({red:.0f} {green:.0f} {blue:.0f})"'
        f' fill-opacity="{OPACITY * share:.3f}"/>'
        for region, (share, (red, green, blue)) in enumerate(zip(shares, colours(shares), strict=True))
    ]
    return (
        f'<svg id="map{at}" style="{"; ".join(f"{name}: {value}" for name, value in box.items())}"'
        f' viewBox="0 0 {columns} {rows}" preserveAspectRatio="none"><title>heat up to {heat.max():.2f}</title>'
        f'<filter id="smooth{at}" filterUnits="userSpaceOnUse" x="0" y="0" width="{columns}" height="{rows}"'
        f' color-interpolation-filters="sRGB"><feGaussianBlur stdDeviation="{BLUR}"/></filter>'
        f'<g filter="url(#smooth{at})">{"".join(squares)}</g></svg>'
    )
