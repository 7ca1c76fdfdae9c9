"""How sure a hit is: how far it stands out from the best that a library gives to generic queries.

The nearest item is always near, in any library, whatever is asked. So a bank of generic queries is asked too, of a
random sample of the library: generic captions beside a text, the library's own pictures beside a picture. A hit counts
by how far it lies above what the bank's best hits reach, in units of how much these vary. No cosine is fixed, so this
holds for every encoder and library; what a standing is worth was measured once (`benchmarks/answerability.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsearch.types import Embeddings, Kind, Modality

BANK_SIZE = 100
"""So many generic queries are enough: with 250 confidence tells no better."""

GOOD_MATCH = 0.15
"""A hit of at least this confidence is a good match.

Where the first hit is right, "no good match" is said all the same of a quarter of the names of things, and of 1 caption
in 12, on pictures that the encoder has not seen; where nothing answers, of 8 to 9 names in 10, and of 7 captions in 10.
"""

# A mean over few items holds much of the best one: among n items n / (n + 10) of it is taken off.
CENTRING_ITEMS = 10
# Cosines of float16 rows are good to about this.
LEAST_SPREAD = 1e-3
# Within these sizes of a library the calibration was measured.
MEASURED_ITEMS = (10, 10_000)


@dataclass(frozen=True, slots=True)
class Background:
    """What n items give to the queries of a bank.

    A query's best score, less `centring` times its mean score, has the mean `level` and the standard deviation
    `spread` over the bank.
    """

    level: float
    spread: float
    centring: float
    n: int

    @classmethod
    def fit(cls, scores: NDArray[np.floating], n: int) -> "Background":
        """Return the background of n items from `scores` (m, b), cosines of m generic queries with b of them at random.

        The best of n lies higher than the best of b. The maximum of n draws with Gaussian tails grows as the square
        root of log n (Fisher & Tippett 1928): from 1,000 to 10,000 by 15.5 %, where 17.4 % was measured of
        pictures and 21.5 % of texts. Raises ValueError without scores.
        """
        m, b = scores.shape
        if m == 0 or b == 0 or n < 1:
            raise ValueError("a background needs queries and items")
        centring = b / (b + CENTRING_ITEMS)
        best = np.asarray(scores.max(axis=1), np.float64) - centring * scores.mean(axis=1, dtype=np.float64)
        level = float(best.mean() * np.sqrt(np.log1p(n) / np.log1p(b)))
        return cls(level=level, spread=max(float(best.std()), LEAST_SPREAD), centring=centring, n=n)

    def standing(self, scores: NDArray[np.floating], mean: float) -> NDArray[np.float64]:
        """Return (k,) how many spreads each score lies above the level; `mean` is the query's over the sample."""
        above: NDArray[np.float64] = np.asarray(scores, np.float64) - self.centring * mean - self.level
        return above / self.spread


@dataclass(frozen=True, slots=True)
class Calibration:
    """The log-odds that a hit is right: slope * standing + per_decade * log10(n) + intercept (Platt 1999)."""

    slope: float
    per_decade: float
    intercept: float


# By what asks, and whether texts or else pictures answer: as `benchmarks/answerability.py` fits them.
CALIBRATIONS: Mapping[tuple[Modality, bool], Calibration] = {
    (Modality.TEXT, False): Calibration(1.47, 0.15, -2.51),
    (Modality.TEXT, True): Calibration(1.8, 0.61, -3.89),
    (Modality.IMAGE, False): Calibration(1.41, 1.06, -4.3),
    (Modality.IMAGE, True): Calibration(1.8, 0.18, -2.03),
}


def bank_rows(b: int, m: int = BANK_SIZE) -> NDArray[np.int64]:
    """Return (min(m, b),) of the rows 0 to b - 1, evenly spread: neighbours in a library are often much alike."""
    rows: NDArray[np.int64] = np.linspace(0, b - 1, min(m, b)).astype(np.int64)
    return rows


def among_themselves(vectors: Embeddings, m: int = BANK_SIZE) -> NDArray[np.float32]:
    """Return the cosines of the `bank_rows` of `vectors` (b, dim) with each other row: (min(m, b), b - 1)."""
    rows = bank_rows(len(vectors), m)
    others = rows[:, None] != np.arange(len(vectors))
    scores: NDArray[np.float32] = (vectors[rows] @ vectors.T)[others].reshape(len(rows), max(0, len(vectors) - 1))
    return scores


def confidence(
    scores: NDArray[np.floating], mean: float, background: Background, *, asked: Modality, found: Kind
) -> NDArray[np.float64]:
    """Return (k,) the probability, 0 to 1, that each hit shows what was asked.

    `scores` (k,) are the cosines of hits of the kind `found`, `mean` is the query's mean cosine over the sample that
    `background` was fitted on. As probabilities they hold where every second question has an answer in the library.
    """
    calibration = CALIBRATIONS[asked, found is Kind.TEXT]
    log_odds = (
        calibration.slope * background.standing(scores, mean)
        + calibration.per_decade * np.log10(np.clip(background.n, *MEASURED_ITEMS))
        + calibration.intercept
    )
    sure: NDArray[np.float64] = (1 + np.tanh(log_odds / 2)) / 2
    return sure


def is_good_match(confidences: NDArray[np.floating]) -> bool:
    """Whether any hit stands out; False where nothing was found."""
    return bool((confidences >= GOOD_MATCH).any())
