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
    from xsearch.types import RGBImage

PAGE_PX = 1024
TILE_PX = 320
TILES_A_ROW = 4

OPACITY = 0.8
LEAST_PEAK = 0.05
"""A map is drawn relative to its hottest region, so that one can see it, but below this heat it fades."""

# matplotlib's perceptually uniform map inferno, at quarters.
_COLOURS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))

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
    """Show where in a picture a text is seen, and which words count.

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
    from xsearch.media.images import open_image, picture_grid, thumbnail

    if suffix == ".json":
        return dumps(_record(found)).encode()
    if suffix == ".html":
        return explanation_page(found, thumbnail(picture.read_bytes(), PAGE_PX)).encode("utf-8", "xmlcharrefreplace")
    pixels = open_image(thumbnail(picture.read_bytes(), TILE_PX), TILE_PX)
    tiles = [heated(pixels, found, heat) for heat in _maps(found)]
    return picture_grid(tiles, [(name, f"{score}, heat {peak}") for name, score, peak in _rows(found)], TILES_A_ROW)


def heated(pixels: "RGBImage", found: "Explanation", heat: "NDArray[np.float64]") -> "RGBImage":
    """Return a picture of any size under a map (regions,), smooth between the middles of regions.

    What the encoder did not see stays as it is.
    """
    import numpy as np

    rows, columns = found.grid
    down = _spread(rows, found.frame.top, found.frame.height, pixels.shape[0])
    across = _spread(columns, found.frame.left, found.frame.width, pixels.shape[1])
    strength = down @ _strength(heat).reshape(rows, columns) @ across.T
    cover = OPACITY * strength[:, :, None]
    return np.round((1 - cover) * pixels + cover * _colours(strength)).astype(np.uint8)


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
    rows, columns = found.grid
    box = {name: f"{100 * share:.3f}%" for name, share in asdict(found.frame).items()}
    strength = _strength(heat)
    squares = [
        f'<path d="M{region % columns} {region // columns}h1v1h-1z" fill="rgb({red:.0f} {green:.0f} {blue:.0f})"'
        f' fill-opacity="{OPACITY * share:.3f}"/>'
        for region, (share, (red, green, blue)) in enumerate(zip(strength, _colours(strength), strict=True))
    ]
    return (
        f'<svg id="map{at}" style="{"; ".join(f"{name}: {value}" for name, value in box.items())}"'
        f' viewBox="0 0 {columns} {rows}" preserveAspectRatio="none"><title>heat up to {heat.max():.2f}</title>'
        f'<filter id="smooth{at}" filterUnits="userSpaceOnUse" x="0" y="0" width="{columns}" height="{rows}"'
        f' color-interpolation-filters="sRGB"><feGaussianBlur stdDeviation="{BLUR}"/></filter>'
        f'<g filter="url(#smooth{at})">{"".join(squares)}</g></svg>'
    )


def _spread(n: int, start: float, share: float, n_px: int) -> "NDArray[np.float64]":
    """Return (n_px, n) weights of linear interpolation of n cells over `share` of a side from `start`; 0 beyond."""
    import numpy as np

    at = ((np.arange(n_px) + 0.5) / n_px - start) / share * n - 0.5
    inside = (at >= -0.5) & (at <= n - 0.5)
    near: NDArray[np.float64] = np.maximum(0, 1 - abs(at.clip(0, n - 1)[:, None] - np.arange(n)))
    return near * inside[:, None]


def _strength(heat: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return a map as it is drawn, 0 to 1."""
    strength: NDArray[np.float64] = heat / max(heat.max(), LEAST_PEAK)
    return strength


def _colours(strength: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return (..., 3) from 0 to 255."""
    import numpy as np

    points = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(strength, points, channel) for channel in zip(*_COLOURS, strict=True)], axis=-1)
