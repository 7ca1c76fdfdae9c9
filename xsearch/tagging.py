"""Use case: give the pictures of a library labels, by the names of things alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xsearch.bank import read_bank
from xsearch.encoders import Encoder
from xsearch.errors import QueryError
from xsearch.labels import Labels, clean_labels, label_vectors
from xsearch.library import Library, LibraryWriter
from xsearch.library.tags import counts, keep_tags, write_labels
from xsearch.types import Kind


@dataclass(frozen=True, slots=True)
class Tagged:
    """What a run did: how many pictures and frames have each label, how many have any, and how many there are."""

    labels: Mapping[str, int]
    tagged: int
    items: int


def tag(data: Path, labels: Sequence[str], encoder: Encoder, *, threshold: float = 0.5) -> Tagged:
    """Give each picture and frame of a library the labels of a probability of at least `threshold`: several, or none.

    They replace those of the last run, and hold for pictures that come later too (`library.tags`). Raises QueryError
    if there is no label or the threshold is no probability above 0, LibraryNotFound, LibraryDamaged, LibraryLocked and
    EncoderMismatch.
    """
    names = clean_labels(labels)
    if not 0 < threshold <= 1:
        raise QueryError(f"{threshold:g} is no probability", remedy="name a threshold above 0 and up to 1")
    library = Library.open(data)
    if library.manifest.fingerprint != encoder.spec.fingerprint:
        raise library.manifest.mismatch(data, encoder.spec, remedy="leave out --model and XSEARCH_MODEL")
    vectors = label_vectors(encoder.encode_texts, names)
    given = Labels(names, vectors, read_bank(data, encoder), encoder.spec.logit_scale, threshold)
    with LibraryWriter(data) as writer:
        write_labels(writer, given)
        keep_tags(writer)
        library = Library.open(data)
        by_label, tagged = counts(library, given)
    of_kinds = library.counts()
    return Tagged(by_label, tagged, of_kinds[Kind.IMAGE] + of_kinds[Kind.FRAME])
