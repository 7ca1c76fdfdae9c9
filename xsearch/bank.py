"""The bank of generic texts that confidence is measured against, as vectors: encoded once for a library."""

from pathlib import Path

import numpy as np

from xsearch.encoders import Encoder
from xsearch.library.files import replacing
from xsearch.probes import probe_texts
from xsearch.ranking.confidence import BANK_SIZE
from xsearch.types import Embeddings

FILE = "bank.npy"


def keep_bank(data: Path, encoder: Encoder) -> None:
    """Put the bank beside a library, if it is not there: to encode it would take longer than a query."""
    if _stored(data, encoder) is None:
        with replacing(data / FILE) as temporary, temporary.open("wb") as file:
            np.save(file, _encoded(encoder).astype(np.float16))


def read_bank(data: Path, encoder: Encoder) -> Embeddings:
    """Return (BANK_SIZE, dim) unit rows, encoded anew where the file is missing or damaged."""
    stored = _stored(data, encoder)
    return _encoded(encoder) if stored is None else stored


def _encoded(encoder: Encoder) -> Embeddings:
    return encoder.encode_texts(probe_texts(BANK_SIZE))


def _stored(data: Path, encoder: Encoder) -> Embeddings | None:
    try:
        bank = np.load(data / FILE, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if bank.shape != (BANK_SIZE, encoder.spec.dim) or bank.dtype != np.float16 or not np.isfinite(bank).all():
        return None
    return np.asarray(bank, np.float32)
