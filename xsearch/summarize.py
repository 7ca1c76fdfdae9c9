"""Use case: the few frames that show what happens in a film, with times, weights and titles."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from xsearch.encoders import Encoder
from xsearch.errors import QueryError, SourceError, Undecodable
from xsearch.index.exact import search_exact
from xsearch.library import Library
from xsearch.media.video import frames, probe
from xsearch.ranking.summary import summary
from xsearch.types import Embeddings, Kind

CLIP_S = 4.0
"""Of a longer stretch, a clip shows so much, around the frame."""


@dataclass(frozen=True, slots=True)
class BoardFrame:
    """A frame of a film that stands for a share `weight` of it, and the stretch in which it lies.

    `shot` counts from 0. `title` is the nearest text of the library.
    """

    t_s: float
    t_start_s: float
    t_end_s: float
    shot: int
    weight: float
    title: str | None

    @property
    def clip_s(self) -> tuple[float, float]:
        """Start and end of what a clip shows: the stretch, or CLIP_S of it around the frame."""
        start_s = max(self.t_start_s, min(self.t_s - CLIP_S / 2, self.t_end_s - CLIP_S))
        return start_s, min(start_s + CLIP_S, self.t_end_s)


@dataclass(frozen=True, slots=True)
class Board:
    """The summary of a film: its frames in time order, with weights of sum 1."""

    film: Path
    duration_s: float
    frames: tuple[BoardFrame, ...]


def summarize(
    film: Path,
    encoder: Encoder,
    *,
    length: int = 8,
    texts: Library | None = None,
    on_progress: Callable[[float, float], None] = lambda seen_s, duration_s: None,
) -> Board:
    """Return `length` frames of a film, or all that are worth indexing where these are fewer.

    `xsearch.ranking.summary.summary` says how they are chosen. Titles come from `texts`, a library of the same encoder;
    without it, or where it holds no texts, they are None. Of the film only vectors and times are held. Raises
    SourceError if it is missing or no film, EncoderMismatch, QueryError if `length` is below 1, OSError.
    """
    if length < 1:
        raise QueryError(f"a summary has at least 1 frame, not {length}")
    if texts is not None and texts.manifest.fingerprint != encoder.spec.fingerprint:
        remedy = f"summarize with {texts.manifest.encoder}, or without this library"
        raise texts.manifest.mismatch(texts.folder, encoder.spec, remedy=remedy)
    with _naming(film):
        duration_s = probe(film).duration_s
        found, vectors = _watched(film, encoder, lambda seen_s: on_progress(seen_s, duration_s))
    chosen = summary(
        vectors,
        np.array([frame.t_s for frame in found]),
        np.array([frame.t_end_s - frame.t_start_s for frame in found]),
        length,
    )
    titles = _nearest_texts(vectors[chosen.rows], texts)
    return Board(
        film,
        duration_s,
        tuple(
            replace(found[row], weight=weight, title=title)
            for row, weight, title in zip(chosen.rows.tolist(), chosen.weights.tolist(), titles, strict=True)
        ),
    )


def _watched(film: Path, encoder: Encoder, on_seen: Callable[[float], None]) -> tuple[list[BoardFrame], Embeddings]:
    """Return the frames that are worth indexing, without weights and titles, and their vectors (n, dim)."""
    found: list[BoardFrame] = []
    vectors: list[Embeddings] = []
    coming = frames(film, encoder.spec.image_px)
    while batch := list(islice(coming, encoder.batch_size)):
        vectors.append(encoder.encode_images([frame.pixels for frame in batch]))
        found += [BoardFrame(frame.t_s, frame.t_start_s, frame.t_end_s, frame.shot, 0.0, None) for frame in batch]
        on_seen(found[-1].t_end_s)
    return found, np.concatenate(vectors)


def _nearest_texts(vectors: Embeddings, texts: Library | None) -> list[str | None]:
    if texts is None or not (are_texts := texts.of_kinds([Kind.TEXT])).any():
        return [None] * len(vectors)
    nearest = search_exact(texts.vectors, vectors, 1, allowed=are_texts)
    return [item.text for item in texts.items(nearest.rows[:, 0])]


@contextmanager
def _naming(film: Path) -> Iterator[None]:
    """Say of which film it is that something is wrong."""
    if not film.is_file():  # a device or a pipe may have no end
        raise SourceError(f"{film} is not a file", remedy="name a film")
    try:
        yield
    except Undecodable as error:
        raise SourceError(f"{film}: {error}", remedy="name a film of which a player shows pictures") from error
