"""Which items hold the words of a query: a full-text index over texts, file names and folders. The owner of tantivy.

It is a cache in `words/`, over the first rows of the library: immutable segments, and `meta.json`, which names them
and is replaced last, by one writer. It is tantivy's own list of them, with what we keep beside it as its payload.
"""

import json
import math
import re
import shutil
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import blake2b, sha256
from itertools import islice, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xsearch.errors import LibraryDamaged, index_command
from xsearch.library.files import file_sha256, replacing, settle
from xsearch.library.library import Library
from xsearch.library.writer import LibraryWriter
from xsearch.types import Kind

if TYPE_CHECKING:
    import tantivy

WORDS = "words"
STATE = "meta.json"
FORMAT = 1
"""Of the payload and of what is a token; an index of another one is built anew."""

FIELDS = {"text": 1.0, "name": 1.0, "folder": 0.3}
"""Where words are looked for, and how much a match there counts."""

# An index up to this size is checked against its checksums whenever it is opened, a larger one by `xsearch verify`.
CHECKED_ON_OPEN_BYTES = 256 << 20
HEAP_BYTES = 64 << 20
"""Of memory for a segment that is being built."""

TOKEN_CHARS = 255
"""A longer token is no word and, together, no name of a file: it is left out."""
QUERY_TOKENS = 100
"""So many different tokens of a query count."""
COMMON_SHARE = 0.5
FEW = 100
"""What is in more than COMMON_SHARE of all items, and in more than FEW, tells none of them from the rest."""

MANY_SHARE = 0.05
"""So large a share of all items is found faster by reading all than one by one."""

# What documents are made of.
_COLUMNS = ("id", "kind", "root", "path", "part", "pair", "text")

_ACCENTS = range(0x300, 0x370)
# Scripts without blanks between words: Thai, Lao, Burmese, Khmer, kana, ideographs; and hangul, where particles stick.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
_UNSPACED_RUN = re.compile(f"([{_UNSPACED}]+)")
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_SEAM = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")


def tokens(text: str) -> list[str]:
    """Return the words of a text as they are looked for: in lower case, without accents, compatible characters alike.

    What stands between blanks is cut at whatever is no letter or digit, before capitals, and between letters and
    digits; it is also kept in one piece: `IMG_2041` is img, 2041 and img2041. Scripts that have no blanks between words
    are cut into pairs of characters, as by Lucene's CJKAnalyzer.
    """
    return [token for word in _unaccented(text).split() for token in _tokens_of_word(word)]


def _unaccented(text: str) -> str:
    if text.isascii():
        return text
    apart = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFC", "".join(char for char in apart if ord(char) not in _ACCENTS))


@lru_cache(maxsize=1 << 16)
def _tokens_of_word(word: str) -> tuple[str, ...]:
    # Marks are the vowels of many scripts.
    pieces = "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in word).split()
    parts = [part for piece in pieces for part in _SEAM.split(piece)]
    found = [short for part in parts for run in _UNSPACED_RUN.split(part) if run for short in _pairs(run)]
    if len(parts) > 1:
        found.append("".join(parts))
    return tuple(token for short in found if len(token := short.casefold()) <= TOKEN_CHARS)


def _pairs(run: str) -> list[str]:
    if len(run) == 1 or not _UNSPACED_RUN.match(run):
        return [run]
    return [run[at : at + 2] for at in range(len(run) - 1)]


class WordHits(NamedTuple):
    """Items that have words of a query, best first: (m,) rows, scores, and which share of the words each has.

    A share, 0 to 1, counts words by how rare they are in the library; a word that it does not know counts most.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    shares: NDArray[np.float32]


NO_WORDS = WordHits(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))


class WordIndex:
    """The words of the first `rows` rows of a library. May be shared between threads."""

    def __init__(self, library: Library, rows: int, searcher: "tantivy.Searcher", schema: "tantivy.Schema") -> None:
        import tantivy

        self.rows = rows
        self._alive = library.alive
        self._is_picture = library.of_kinds([Kind.IMAGE])
        self._searcher = searcher
        self._schema = schema
        # "a cat on grass" is not for what is named after the words "a" and "on".
        stop = tantivy.Filter.stopword("english")
        self._telling = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).filter(stop).build()

    def search(self, words: str, k: int, *, allowed: NDArray[np.bool_] | None = None) -> "WordHits":
        """Return the m <= k living items that have any of the words, best first.

        m < k only where fewer match. `words` is plain text, nothing in it is an operator; words that more than half of
        all items have, and of other words beside them the commonest of English, are not looked for. Scores are BM25
        (Robertson & Zaragoza 2009; k1 = 1.2, b = 0.75) of each field, weighted and summed. What is said of a picture by
        the texts that belong to it is its own too: it scores as the best of its name and its texts. `allowed` (rows,)
        is True where a row may be found.
        """
        mask = self._alive if allowed is None else self._alive & allowed
        pictures_too = bool((mask & self._is_picture).any())
        said = self._said(words)
        query = self._query(said)
        count = self._searcher.num_docs
        found: dict[int, tuple[float, int]] = {}
        pictures: dict[int, list[int]] = {}
        depth = 0
        while query is not None and len(found) < k and depth < count:
            depth = min(max(4 * k, 10 * depth), count)
            hits, rows, pairs = self._matches(query, depth, "pair")
            if pictures_too:
                pictures |= self._rows_of({pair for pair in pairs if pair is not None and pair not in pictures})
            found = {}
            for (score, _), row, pair in zip(hits, rows, pairs, strict=True):
                for one in (row, *pictures.get(pair, ())):
                    if one < len(mask) and mask[one]:
                        found.setdefault(one, (score, row))
            if len(hits) < depth:
                break
        order = sorted(found, key=lambda one: (-found[one][0], one))[:k]
        shares = self._shares(said, {found[one][1] for one in order})
        return WordHits(
            np.array(order, np.int64),
            np.array([found[one][0] for one in order], np.float32),
            np.array([shares[found[one][1]] for one in order], np.float32),
        )

    def _said(self, words: str) -> list[str]:
        """Return the tokens of a query that are looked for."""
        said = list(dict.fromkeys(tokens(words)))
        return (self._telling.analyze(" ".join(said)) or said)[:QUERY_TOKENS]

    def _shares(self, said: Sequence[str], rows: Collection[int]) -> dict[int, float]:
        """Return for each of these rows which share of the tokens it has, each counted by how rare it is."""
        import tantivy

        if not rows:
            return {}
        count = self._searcher.num_docs
        rarities = {}
        for token in said:
            having = max(self._searcher.doc_freq(name, token) for name in FIELDS)
            rarities[token] = math.log1p((count - having + 0.5) / (having + 0.5))
        has = [
            tantivy.Query.const_score_query(
                _any_of([tantivy.Query.term_query(self._schema, name, token, "basic") for name in FIELDS]), rarity
            )
            for token, rarity in rarities.items()
        ]
        among = tantivy.Query.const_score_query(tantivy.Query.term_set_query(self._schema, "row", list(rows)), 0.0)
        query = tantivy.Query.boolean_query([(tantivy.Occur.Must, among), (tantivy.Occur.Must, _any_of(has))])
        hits, found, _ = self._matches(query, len(rows), "id")
        whole = sum(rarities.values())
        return {row: min(1.0, score / whole) for (score, _), row in zip(hits, found, strict=True)}

    def _query(self, said: Sequence[str]) -> "tantivy.Query | None":
        """Return the query for any of the tokens, None where nothing can be found by them."""
        import tantivy

        common = max(FEW, COMMON_SHARE * self._searcher.num_docs)
        terms = [
            tantivy.Query.boost_query(tantivy.Query.term_query(self._schema, name, token, "freq"), weight)
            for token in said
            for name, weight in FIELDS.items()
            if 0 < self._searcher.doc_freq(name, token) <= common
        ]
        return _any_of(terms) if terms else None

    def _matches(self, query: "tantivy.Query", depth: int, other: str) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the best hits, (score, address), and of each its row and its value in another field."""
        hits = self._searcher.search(query, limit=depth, count=False).hits
        addresses = [address for _, address in hits]
        values = self._searcher.fast_field_values
        return hits, values("row", addresses), values(other, addresses)

    def _rows_of(self, ids: Collection[int]) -> dict[int, list[int]]:
        """Return the rows of these items, dead ones among them."""
        import tantivy

        rows_of: dict[int, list[int]] = {one: [] for one in ids}
        if not ids:
            return rows_of
        count = self._searcher.num_docs
        if len(ids) < MANY_SHARE * count:
            query = _any_of([tantivy.Query.term_query(self._schema, "id", one, "basic") for one in ids])
            depth = 2 * len(ids)
        else:
            query, depth = tantivy.Query.all_query(), count + 1
        while len((found := self._matches(query, depth, "id"))[0]) == depth:  # of an item many dead rows may be left
            depth *= 2
        for row, one in zip(*found[1:], strict=True):
            if one in rows_of:
                rows_of[one].append(row)
        return rows_of


def _any_of(queries: Iterable["tantivy.Query"]) -> "tantivy.Query":
    import tantivy

    return tantivy.Query.boolean_query([(tantivy.Occur.Should, query) for query in queries])


def open_words(library: Library, *, check: bool = False) -> WordIndex | None:
    """Open the words of a library, None where it has none yet.

    Raises LibraryDamaged if they are missing in part, altered, or not those of this commit's rows, which is so for a
    moment after rows were numbered anew. `check` compares the checksums also of a large index.
    """
    kept = _Kept.load(library.folder)
    while kept is not None:
        try:
            return _opened(library, kept, check=check)
        except LibraryDamaged:
            before, kept = kept, _Kept.load(library.folder)
            if kept == before:  # else a writer has put it in place of what we read
                raise
    return None


def keep_words(writer: LibraryWriter, *, on_stage: Callable[[str], None] = lambda stage: None) -> None:
    """Bring the words of a library in step with its rows: new ones are added, and all anew where that is needed.

    Takes milliseconds where nothing has changed, and little memory however many rows are new. Raises OSError if they
    cannot be written, LibraryDamaged if a shard was altered.
    """
    library = Library.open(writer.folder)
    folder = library.folder / WORDS
    kept = _usable(library)
    if not kept.meta or [part.shard for part in kept.parts] != [entry.id for entry in library.manifest.shards]:
        if new := len(library) - kept.rows:
            on_stage(f"noting the words of {new:,} items")
        folder.mkdir(exist_ok=True)
        with _passing_folder(folder) as work:
            kept = _written(library, kept, work)
        kept.save(library.folder)
    for path in folder.iterdir():  # what is of before, and what a writer that died left behind
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in kept.files and path.name != STATE:
            path.unlink()


@dataclass(frozen=True, slots=True)
class _Part:
    """A shard whose rows are in the index. `digest` is of all that its documents are made of."""

    shard: str
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class _Kept:
    """What `meta.json` says: the rows in the index, tantivy's part of it, and size and sha256 of the index's files."""

    parts: tuple[_Part, ...] = ()
    meta: str = ""
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def save(self, folder: Path) -> None:
        payload = asdict(self) | {"format": FORMAT}
        meta = json.loads(payload.pop("meta"))
        payload["sha256"] = _checksum(meta, payload)
        with replacing(folder / WORDS / STATE) as temporary:
            temporary.write_text(json.dumps(meta | {"payload": json.dumps(payload)}), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "_Kept | None":
        """Read it, None where there is none. Raises LibraryDamaged."""
        path = folder / WORDS / STATE
        try:
            meta = json.loads(path.read_bytes())
            payload = json.loads(meta.pop("payload"))
            if payload.pop("sha256") != _checksum(meta, payload):
                raise ValueError("its checksum differs")
            if payload["format"] != FORMAT:
                raise ValueError("another version of xsearch wrote it")
            files = {name: (size, checksum) for name, (size, checksum) in payload["files"].items()}
            return cls(tuple(_Part(**part) for part in payload["parts"]), json.dumps(meta), files)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise _unusable(folder, f"{STATE} cannot be read ({error})") from error


def _checksum(*said: Mapping[str, Any]) -> str:
    return sha256(json.dumps(said).encode()).hexdigest()


def _unusable(folder: Path, what: str) -> LibraryDamaged:
    return LibraryDamaged(
        f"the index of words in {folder / WORDS} cannot be used: {what}",
        remedy=f"{index_command(folder)} makes it anew",
    )


def _usable(library: Library) -> _Kept:
    """Return what can be added to, which may be nothing."""
    try:
        kept = _Kept.load(library.folder)
        if kept is not None and kept.rows <= len(library):
            _opened(library, kept)
            return kept
    except LibraryDamaged:
        pass
    return _Kept()


def _opened(library: Library, kept: _Kept, *, check: bool = False) -> WordIndex:
    folder = library.folder / WORDS
    check = check or sum(size for size, _ in kept.files.values()) <= CHECKED_ON_OPEN_BYTES
    try:
        for name, (size, checksum) in kept.files.items():
            if (folder / name).stat().st_size != size or (check and file_sha256(folder / name) != checksum):
                raise ValueError(f"{name} was altered")
        index = _reading(folder, kept)
    except (OSError, ValueError) as error:
        raise _unusable(library.folder, str(error)) from error
    if _Kept.load(library.folder) != kept:
        raise _unusable(library.folder, "it was replaced meanwhile")
    if not _are_rows_of(library, kept.parts):
        raise _unusable(library.folder, "it is of other rows")
    return WordIndex(library, kept.rows, index.searcher(), index.schema)


def _reading(folder: Path, kept: _Kept) -> "tantivy.Index":
    """Return the index, read whole from now on: its files are mapped."""
    try:
        return _read(folder)
    except ValueError:
        # It takes a lock there, which needs the right to write. An index that is damaged fails here as well.
        with _passing_folder() as links:
            for name in kept.files:
                Path(links, name).symlink_to((folder / name).absolute())
            Path(links, STATE).write_text(kept.meta, "utf-8")
            return _read(links)


def _read(folder: Path) -> "tantivy.Index":
    import tantivy

    index = tantivy.Index.open(str(folder))
    index.config_reader("manual")  # stay with one commit
    return index


@contextmanager
def _passing_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder for tantivy, and remove it in the end."""
    with TemporaryDirectory(prefix="xsearch-", dir=parent) as around:
        folder = Path(around, WORDS)
        folder.mkdir()
        try:
            yield folder
        finally:
            # Else the thread in which tantivy watches it could put a lock in it while it is removed.
            folder.rename(Path(around, "left"))


def _are_rows_of(library: Library, parts: tuple[_Part, ...]) -> bool:
    """Whether these are the first rows of the library, or all of its rows the first of these.

    Shards are named after what is in them, and most of them stay. Where one was merged with its neighbours meanwhile,
    its rows may be the same, and are compared.
    """
    same = _same_shards(library, parts)
    if same == len(library.manifest.shards):
        return True
    start = sum(part.rows for part in parts[:same])
    return _digests(library, start, [part.rows for part in parts[same:]]) == [part.digest for part in parts[same:]]


def _same_shards(library: Library, parts: tuple[_Part, ...]) -> int:
    pairs = zip(parts, library.manifest.shards, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].shard == pair[1].id, pairs))


def _digests(library: Library, start: int, counts: Iterable[int]) -> list[str]:
    """Return a digest of what makes the documents of each so many rows, one after the other from `start` on."""
    rows = _rows(library, start, _COLUMNS)
    digests = []
    for count in counts:
        digest = blake2b(count.to_bytes(8, "little"), digest_size=16)
        for row in islice(rows, count):
            digest.update("\0".join(value or "" for value in row).encode() + b"\n")
        digests.append(digest.hexdigest())
    return digests


def _rows(library: Library, start: int, names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield the values in these columns of all rows from `start` on, dead ones included, with a batch in memory."""
    first = 0
    for shard in library._shards:
        if first + shard.entry.rows > start:
            with shard._reading():
                reader = shard._parquet_file(metadata=shard._file.metadata)
                at = first
                for batch in reader.iter_batches(columns=list(names), use_threads=False):
                    wanted = batch.slice(max(0, start - at))
                    yield from zip(*(wanted[name].to_pylist() for name in names), strict=True)
                    at += len(batch)
        first += shard.entry.rows


def _written(library: Library, kept: _Kept, work: Path) -> _Kept:
    """Add the rows that are not in the index yet, in the folder `work`; put the new segments beside the old ones."""
    folder = library.folder / WORDS
    for name in kept.files:
        _link(folder / name, work / name)
    if kept.meta:
        Path(work, STATE).write_text(kept.meta, "utf-8")
    if not kept.meta or kept.rows < len(library):
        _add_documents(work, kept.rows, _rows(library, kept.rows, _COLUMNS))
    meta = Path(work, STATE).read_text("utf-8")
    files = {}
    for segment in json.loads(meta)["segments"]:
        for path in work.glob(f"{segment['segment_id'].replace('-', '')}.*"):
            files[path.name] = kept.files.get(path.name) or (path.stat().st_size, file_sha256(path))
            if path.name not in kept.files:
                settle(path, folder / path.name)
    same = _same_shards(library, kept.parts)
    shards = library.manifest.shards[same:]
    start = sum(part.rows for part in kept.parts[:same])
    digests = _digests(library, start, [shard.rows for shard in shards])
    parts = [_Part(shard.id, shard.rows, digest) for shard, digest in zip(shards, digests, strict=True)]
    return _Kept((*kept.parts[:same], *parts), meta, files)


def _link(source: Path, path: Path) -> None:
    try:
        path.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, path)


def _add_documents(work: Path, start: int, rows: Iterable[tuple[Any, ...]]) -> None:
    """Add a document for each row to the index in the folder `work`. Raises OSError if they cannot be written."""
    import tantivy

    schema = _schema()
    try:
        index = tantivy.Index(schema, str(work))
        writer = index.writer(HEAP_BYTES, num_threads=1)
        for row, values in enumerate(rows, start):
            document = _document(dict(zip(_COLUMNS, values, strict=True))) | {"row": row}
            writer.add_document(tantivy.Document.from_dict(document, schema))
        writer.commit()
        writer.wait_merging_threads()
    except ValueError as error:  # whatever goes wrong in tantivy, a full disk above all
        raise OSError(f"the words cannot be written to {work}: {error}") from error


def _schema() -> "tantivy.Schema":
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("row", fast=True, indexed=True)
    builder.add_unsigned_field("id", fast=True, indexed=True)
    builder.add_unsigned_field("pair", fast=True)
    for name in FIELDS:
        builder.add_text_field(name, tokenizer_name="whitespace", index_option="freq")
    return builder.build()


def _document(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is indexed of an item."""
    # The part of a text is a number, or what it is made of; that of a frame is its time.
    inside = values["part"] if Kind(values["kind"]) is Kind.IMAGE else ""
    # Where the library's sources lie says nothing: it is the same for all.
    root = re.split(r"[/\\]", values["root"])[-1]
    *folders, name = [part for part in re.split(r"[/\\]", f"{root}/{values['path']}/{inside}") if part] or [""]
    stem = name.rpartition(".")[0]
    said = {
        "text": _indexed(values["text"] or ""),
        "name": list(dict.fromkeys(_indexed(name) + tokens(stem))),  # IMG_2041.jpg is img2041, too
        "folder": _indexed(" ".join(folders)),
    }
    document: dict[str, Any] = {where: " ".join(found) for where, found in said.items() if found}
    document["id"] = int(values["id"], 16)
    if values["pair"] is not None:
        document["pair"] = int(values["pair"], 16)
    return document


def _indexed(text: str) -> list[str]:
    """Return the tokens of a text, and the single characters of those that are cut into pairs: one may be asked for."""
    return tokens(text) if text.isascii() else tokens(text) + _UNSPACED_CHARACTER.findall(_unaccented(text))
