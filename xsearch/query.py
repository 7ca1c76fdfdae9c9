r"""The query language: one grammar for the command line, Python and HTTP.

    a beach at sunset                                 one text, exactly as it is typed
    a beach + ./dog.jpg - people                      like the text, like the picture, and nobody in it
    2:"golden retriever" + ./pool.jpg - 0.5:fruit     weights

- Terms are joined by `+` and `-` that stand alone, with white space on both sides: `t-shirt`, `C++` and `Haupt- und
  -eingang` stay whole. Only at the very beginning may the sign touch its term (`-people`), unless that begins with a
  digit (`-5 degrees`) and not with a weight.
- A weight is a number and a colon directly before a letter, a quote or a picture: `2:cat`, `0.5:"16 cats"`; so
  `16:9 monitor`, `12:30 clock` and `2: the return` are texts.
- A picture is a path that begins with `./ ../ / ~/` or a drive (`C:\`), an http(s) address, or any path as
  `image:"name"`. A bare path reaches to the next sign, spaces included, and is taken as typed.
- `item:0c35e1f0a1b2c3d4` is an item of the library, by its id. All else is text.
- `"..."` or `'...'` around a whole term makes it text, literally. Double quotes inside a text protect the signs between
  them and stay part of it. A backslash takes the next of `+ - : " ' \` literally, before all else it is itself.
- `-` leaves out. Where every term is left out, what is least like them comes first.
"""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from xsearch.errors import QueryError

MAX_TERMS = 64
MAX_CHARS = 200_000

_EMPTY = "the query is empty"
_SAY_WHAT = 'say what to find: `xsearch query "a cat on grass"`'

_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_LOCATION = r"(?:\.{1,2}[\\/]|/(?=\S)|~[\\/]|[A-Za-z]:[\\/]|(?i:https?)://)"
_TERM_START = rf"""(?:[^\W\d_]|["']|{_LOCATION})"""
_ITEM = re.compile(r"item:([0-9a-f]{16})")
_PREFIX = re.compile(rf"""(?:(?P<weight>{_NUMBER}):(?={_TERM_START}))?(?P<image>image:(?=["']))?""")
_FIRST_SIGN = re.compile(rf"([+-])(?=\s|\Z|{_TERM_START}|{_NUMBER}:{_TERM_START})")
_SIGN = r"(?<!\S)[+-](?!\S)"
_QUOTED = re.compile(rf"""("(?:\\.|[^"\\])*"|'(?:\\.|[^\\])*?')(?=\s*\Z|\s+{_SIGN})""", re.DOTALL)
# Escapes and quoted stretches are matched first, so that no sign in them is seen.
_NEXT_SIGN = re.compile(rf"""\\.|(?<![^\s:])"(?:\\.|[^"\\])*"|(?P<sign>{_SIGN})""", re.DOTALL)
_ESCAPED = re.compile(r"""\\([-+:"'\\])""")


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture to find the like of: a path or http(s) address, encoded bytes, a PIL image or an (h, w, 3) array.

    Raises TypeError for anything else. Paths, addresses and bytes are equal by value; pixels only to themselves.
    """

    source: Any

    def __post_init__(self) -> None:
        if isinstance(self.source, os.PathLike):
            object.__setattr__(self, "source", os.fspath(self.source))
        # Asked of the class: PIL's instances would copy all their pixels to answer.
        if not isinstance(self.source, str | bytes) and not hasattr(type(self.source), "__array_interface__"):
            raise TypeError(f"a picture is a path, bytes, a PIL image or an array, not {type(self.source).__name__}")

    @property
    def is_url(self) -> bool:
        return isinstance(self.source, str) and self.source.lower().startswith(("http://", "https://"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Picture):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> str | bytes | int:
        return self.source if isinstance(self.source, str | bytes) else id(self.source)


@dataclass(frozen=True, slots=True)
class Stored:
    """An item of the library to find the like of, by its id. It does not come back itself."""

    item_id: str


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that is wanted, or `excluded`. Raises QueryError if a text is blank or a weight not positive."""

    content: str | Picture | Stored
    weight: float = 1.0
    excluded: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", float(self.weight))
        if not (math.isfinite(self.weight) and self.weight > 0):
            remedy = "weights are above 0; leave the term out, or put - before it"
            raise QueryError(f"{self.weight:g} is no weight", remedy=remedy)
        written = self.content.source if isinstance(self.content, Picture) else self.content
        if isinstance(written, str):
            if not written.strip():
                raise QueryError(_EMPTY, remedy=_SAY_WHAT)
            if isinstance(self.content, str) and not _is_utf8(written):
                raise QueryError("the query is not UTF-8", remedy="type it again in a UTF-8 terminal")

    def __str__(self) -> str:
        """Return the term as one types it, without its sign."""
        weight = "" if self.weight == 1 else f"{self.weight!r}:".replace(".0:", ":")
        if isinstance(self.content, Stored):
            return f"{weight}item:{self.content.item_id}"
        kind, written = ("", self.content) if isinstance(self.content, str) else ("image:", self.content.source)
        if not isinstance(written, str):
            return f"{weight}{kind}<{type(written).__name__}>"
        bare = f"{weight}{written}"
        escaped = written.replace("\\", "\\\\").replace('"', '\\"')
        return bare if _is_plain(bare, self) else f'{weight}{kind}"{escaped}"'


@dataclass(frozen=True, slots=True, init=False)
class Query:
    """Signed, weighted terms: `Query(text="a beach") + Path("dog.jpg") - "people"`, `2 * Query(text="a cat")`.

    A str that is added or taken away is text, literally; `parse` reads the grammar. `str(query)` is the canonical form,
    and parsing it gives the same query, but for pictures that are bytes or pixels. Raises QueryError if there is
    nothing to find, or more than `MAX_TERMS` terms.
    """

    terms: tuple[Term, ...]

    def __init__(self, terms: Iterable[Term] = (), *, text: str | None = None, image: Any = None) -> None:
        named = [Term(text)] if text is not None else []
        named += [Term(Picture(image))] if image is not None else []
        object.__setattr__(self, "terms", (*terms, *named))
        if not self.terms:
            raise QueryError(_EMPTY, remedy=_SAY_WHAT)
        if len(self.terms) > MAX_TERMS:
            raise QueryError(f"the query has {len(self.terms)} terms", remedy=f"name at most {MAX_TERMS}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a query as a person types it. Raises QueryError that names the column, counted from 1."""
        if len(text) > MAX_CHARS:
            raise QueryError(f"the query has {len(text):,} characters", remedy=f"say it in at most {MAX_CHARS:,}")
        return cls(_terms(text))

    @property
    def wanted(self) -> tuple[Term, ...]:
        return tuple(term for term in self.terms if not term.excluded)

    @property
    def excluded(self) -> tuple[Term, ...]:
        return tuple(term for term in self.terms if term.excluded)

    def __add__(self, other: Any) -> "Query":
        return Query((*self.terms, *_as_query(other).terms))

    def __sub__(self, other: Any) -> "Query":
        turned = (replace(term, excluded=not term.excluded) for term in _as_query(other).terms)
        return Query((*self.terms, *turned))

    def __mul__(self, factor: float) -> "Query":
        return Query(replace(term, weight=term.weight * factor) for term in self.terms)

    __rmul__ = __mul__

    def __str__(self) -> str:
        joined = " ".join(f"{'-' if term.excluded else '+'} {term}" for term in self.terms)
        return joined.removeprefix("+ ")


def _as_query(value: Any) -> Query:
    if isinstance(value, Query):
        return value
    if isinstance(value, Stored):
        return Query((Term(value),))
    return Query(text=value) if isinstance(value, str) else Query(image=value)


def _terms(text: str) -> Iterable[Term]:
    at = len(text) - len(text.lstrip())
    if at == len(text):
        raise QueryError(_EMPTY, remedy=_SAY_WHAT)
    first = _FIRST_SIGN.match(text, at)
    sign, at = (first[1], first.end()) if first else ("+", at)
    while True:
        term, end = _term(text, at, excluded=sign == "-")
        yield term
        if end == len(text):
            return
        sign, at = text[end], end + 1


def _term(text: str, at: int, *, excluded: bool) -> tuple[Term, int]:
    """Return the term at `at`, and where the sign after it stands, or the end of the text."""
    start = len(text) - len(text[at:].lstrip())
    prefix = _PREFIX.match(text, start)
    assert prefix is not None  # every part of it may be missing
    body = prefix.end()
    quoted = _QUOTED.match(text, body)
    signs = (found.start() for found in _NEXT_SIGN.finditer(text, quoted.end() if quoted else body) if found["sign"])
    end = next(signs, len(text))
    written = text[body:end].rstrip()
    column = f"at column {body + 1}"
    content: str | Picture | Stored
    if not written:
        remedy = 'write what to find on both sides of a sign, or quote a sign that is meant itself: "+"'
        raise QueryError(f"a term is missing {column}", remedy=remedy)
    if quoted:
        literal = _ESCAPED.sub(r"\1", quoted[1][1:-1])
        content = Picture(literal) if prefix["image"] else literal
    elif prefix["image"] or (written[0] == '"' and not _NEXT_SIGN.match(text, body)):
        remedy = 'close it there, or write \\" for the character itself'
        raise QueryError(f"the quote {column} is not closed before a sign or the end", remedy=remedy)
    elif item := _ITEM.fullmatch(written):
        content = Stored(item[1])
    elif re.match(_LOCATION, written):
        content = Picture(written)
        if content.is_url and re.search(r"\s", written):
            remedy = "put + or - before what follows it, or %20 for a space in it"
            raise QueryError(f"the address {column} holds white space", remedy=remedy)
    else:
        content = _ESCAPED.sub(r"\1", written)
    try:
        return Term(content, float(prefix["weight"] or 1), excluded), end
    except QueryError as error:
        raise QueryError(f"{error.message} at column {start + 1}", remedy=error.remedy) from None


def _is_plain(bare: str, term: Term) -> bool:
    """Whether `bare` is read as `term`, whatever stands before and after it."""
    # A quote that is not closed in this term might be closed by a later one.
    if '"' in bare or re.match(rf"(?:{_NUMBER}:)?'", bare):
        return False
    try:
        return tuple(_terms(bare)) == (replace(term, excluded=False),)
    except QueryError:
        return False


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # the shell's undecodable bytes, or half of a pair of surrogates
        return False
    return True
