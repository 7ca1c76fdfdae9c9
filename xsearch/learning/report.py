"""What a training did, as a page that needs nothing beside it."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from xsearch.learning.training import Epoch, Trained

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 760px; margin: 2rem auto; padding: 0 1rem; background: light-dark(#fafafa, #161616);
       color: light-dark(#222, #ddd); }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin-top: 2rem; }
svg { width: 100%; height: auto; overflow: visible; } polyline { fill: none; stroke: #2a5bd7; stroke-width: 2; }
line { stroke: #8888; } text { font-size: 12px; fill: currentColor; }
td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; font-variant-numeric: tabular-nums; }
"""

_WIDTH, _HEIGHT = 720, 220


def write_report(file: Path, base: str, trained: Trained) -> None:
    """Write the page of a training on an encoder called `base`."""
    rows = "".join(
        f"<tr><td>{escape(name)}<td>{before:.3f}<td>{trained.result[name]:.3f}<td>{trained.result[name] - before:+.3f}"
        for name, before in trained.base.items()
    )
    file.write_text(
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Training · xsearch</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f"<h1>Training of {escape(base)}</h1>\n<p>{trained.training:,} pictures to learn from, "
        f"{trained.held_out:,} held out; {len(trained.epochs)} epochs. {trained.share:.0%} of what was learned is kept:"
        f" the share that was best for what was held out.</p>\n<h2>Held-out pictures</h2>\n"
        f"<table><tr><th><th>before<th>after<th>gain{rows}</table>\n"
        f"{_curve('Loss', [line.loss for line in trained.epochs])}\n"
        f"{_curve('Held-out pictures', _held_out(trained.epochs))}\n</html>\n",
        "utf-8",
    )


def _held_out(epochs: Sequence[Epoch]) -> list[float]:
    return [line.held_out for line in epochs]


def _curve(title: str, values: Sequence[float]) -> str:
    """Return a line over epochs, from the least value to the greatest."""
    low, high = min(values), max(values)
    span, step = (high - low) or 1.0, _WIDTH / max(1, len(values) - 1)
    points = " ".join(f"{at * step:.1f},{_HEIGHT * (high - value) / span:.1f}" for at, value in enumerate(values))
    return (
        f'<h2>{escape(title)}</h2>\n<svg viewBox="-50 -10 {_WIDTH + 60} {_HEIGHT + 40}" role="img" '
        f'aria-label="{escape(title)}: {values[0]:.4g} to {values[-1]:.4g} in {len(values)} epochs">'
        f'<line x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/><polyline points="{points}"/>'
        f'<text x="-45" y="5">{high:.4g}</text><text x="-45" y="{_HEIGHT}">{low:.4g}</text>'
        f'<text x="{_WIDTH - 60}" y="{_HEIGHT + 20}">epoch {len(values)}</text></svg>'
    )
