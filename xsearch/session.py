"""Use case: a conversation, in which each turn changes the query, as `turns` tells."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, Protocol, Self

from xsearch.errors import QueryError, SourceError, Undecodable
from xsearch.query import Query, Term
from xsearch.turns import LAST, Action, Edit, parse
from xsearch.types import Hit, Kind

MAX_HITS = 100_000


@dataclass(frozen=True, slots=True)
class State:
    """What a conversation has come to.

    `more_like` and `less_like` are ids of items. `shown` are those of all hits so far, by rank; the k on the last page
    come after the first `offset`. Raises QueryError for a kind or number that cannot be asked for, and for a query that
    cannot be written: of pictures that are bytes or pixels, or of more than `query.MAX_CHARS` characters.
    """

    query: Query | None = None
    more_like: tuple[str, ...] = ()
    less_like: tuple[str, ...] = ()
    kind: str = "any"
    k: int = 10
    offset: int = 0
    shown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in (*Kind, "any"):
            raise QueryError(f"there is no kind {self.kind!r}", remedy=f"kinds are {', '.join((*Kind, 'any'))}")
        if self.k < 1 or self.offset < 0 or self.offset + self.k > MAX_HITS:
            raise QueryError(f"{self.offset + self.k:,} hits cannot be shown", remedy=f"ask for 1 to {MAX_HITS:,}")
        if self.query is not None and Query.parse(str(self.query)) != self.query:
            raise QueryError("a conversation holds no picture that is bytes or pixels", remedy="name a file or address")

    @property
    def terms(self) -> tuple[Term, ...]:
        return () if self.query is None else self.query.terms

    @property
    def asks(self) -> bool:
        """Whether there is something to find."""
        return self.query is not None or bool(self.more_like)

    def __str__(self) -> str:
        parts = [
            "" if self.query is None else str(self.query),
            f"like {_hits(self.more_like)}" if self.more_like else "",
            f"unlike {_hits(self.less_like)}" if self.less_like else "",
            f"kind {self.kind}" if self.kind != "any" else "",
        ]
        return ", ".join(part for part in parts if part) or "nothing yet"

    def to_json(self) -> dict[str, Any]:
        return {
            "query": None if self.query is None else str(self.query),
            "more_like": list(self.more_like),
            "less_like": list(self.less_like),
            "kind": self.kind,
            "k": self.k,
            "offset": self.offset,
            "shown": list(self.shown),
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Return the state that `to_json` told. Raises QueryError if it is none."""
        try:
            written = told["query"]
            return cls(
                query=None if written is None else Query.parse(written),
                more_like=tuple(map(str, told["more_like"])),
                less_like=tuple(map(str, told["less_like"])),
                kind=str(told["kind"]),
                k=index(told["k"]),
                offset=index(told["offset"]),
                shown=tuple(map(str, told["shown"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise QueryError("that is no state of a conversation", remedy="begin a new one") from error


@dataclass(frozen=True, slots=True)
class Turn:
    """The answer to a turn: `reply` says in one line what was understood, or, if it was not `understood`, why not.

    Then, and where nothing is asked, there are no hits. `good_match` tells whether any hit stands out.
    """

    reply: str
    state: State
    understood: bool = True
    hits: Sequence[Hit] = ()
    good_match: bool = False


class Found(Protocol):
    """What is found, best first: `Hits`."""

    @property
    def hits(self) -> Sequence[Hit]: ...

    @property
    def good_match(self) -> bool: ...


class Searches(Protocol):
    """Who is asked: a `Searcher`. Items that the answer shall be more like count as wanted, beside a query or alone."""

    def query(
        self, query: Query | None, *, k: int, kind: str, more_like: Sequence[str], less_like: Sequence[str]
    ) -> Found: ...


class Session:
    """A conversation with one library, for one thread at a time."""

    def __init__(self, searcher: Searches, history: Sequence[State] = (State(),)) -> None:
        """Begin with one state, or go on after several, oldest first. `start over` keeps kind and k of the first."""
        self._searcher = searcher
        self.history = tuple(history)

    @property
    def state(self) -> State:
        return self.history[-1]

    def say(self, text: str) -> Turn:
        """Take one turn. What cannot be followed or found is answered with the reason, and changes nothing.

        Other errors of the searcher are raised: of the library, of the encoder.
        """
        try:
            edits = parse(text)
            *before, state = self._edited(edits)
            found = self._ask(state)
        except (QueryError, SourceError, Undecodable, OSError) as error:
            return Turn(str(error), self.state, understood=False)
        hits = found.hits if found is not None else ()
        state = replace(state, shown=tuple(hit.item_id for hit in hits))
        self.history = (*before, state)
        said = "; ".join(map(str, edits))
        reply = str(state) if edits[0].action is Action.FIND else f"{said}: {state}"
        return Turn(reply, state, hits=hits[state.offset :], good_match=found is not None and found.good_match)

    def _edited(self, edits: Sequence[Edit]) -> tuple[State, ...]:
        """Return the history as it is after the edits."""
        action = edits[0].action
        if action is Action.UNDO:
            if len(self.history) == 1:
                raise QueryError("there is nothing to undo", remedy="say what to find")
            return self.history[:-1]
        state = self.state
        if action is Action.START_OVER:
            state = State(kind=self.history[0].kind, k=self.history[0].k)
        else:
            for edit in edits:
                state = _after(state, edit)
        return (*self.history, state)

    def _ask(self, state: State) -> Found | None:
        if not state.asks:
            return None
        found = self._searcher.query(
            state.query,
            k=state.offset + state.k,
            kind=state.kind,
            more_like=state.more_like,
            less_like=state.less_like,
        )
        if state.offset and len(found.hits) <= state.offset:
            raise QueryError("there are no more hits", remedy=f"these were all {len(found.hits):,}")
        return found


def _after(state: State, edit: Edit) -> State:
    """Return the state after an edit. Raises QueryError if that names what is not there, or is no query."""
    state = replace(state, offset=state.offset + state.k if edit.action is Action.SHOW_MORE else 0)
    match edit.action:
        case Action.FIND:
            return replace(state, query=Query.parse(edit.text), more_like=(), less_like=())
        case Action.ADD:
            return _with_terms(state, Query.parse(edit.text).terms)
        case Action.LEAVE_OUT:
            turned = [replace(term, excluded=not term.excluded) for term in Query.parse(edit.text).terms]
            return _with_terms(state, turned)
        case Action.START_FROM:
            # Beside the hit, the texts that found it would outvote what is to be different.
            left_out = _query(term for term in state.terms if term.excluded)
            return _with_hits(replace(state, query=left_out, more_like=()), more=_items(state, edit.numbers))
        case Action.MORE_LIKE:
            return _with_hits(state, more=_items(state, edit.numbers))
        case Action.LESS_LIKE:
            return _with_hits(state, less=_items(state, edit.numbers))
        case Action.FORGET:
            return _forgetting(state, edit.text)
        case Action.KIND:
            return replace(state, kind=edit.text)
        case Action.SHOW:
            return replace(state, k=edit.numbers[0])
        case Action.SHOW_MORE if not state.asks:
            raise QueryError("there is nothing to show yet", remedy="say what to find")
    return state


def _with_terms(state: State, terms: Sequence[Term]) -> State:
    """Return the state with more terms. Each is the last word on its content."""
    named = {_written(term) for term in terms}
    kept = (term for term in state.terms if _written(term) not in named)
    return replace(state, query=Query((*kept, *terms)))


def _with_hits(state: State, *, more: tuple[str, ...] = (), less: tuple[str, ...] = ()) -> State:
    """Return the state with more to be like, or unlike. Each is the last word on its item."""
    more_like, less_like = (
        tuple(item for item in items if item not in more + less) for items in (state.more_like, state.less_like)
    )
    return replace(state, more_like=more_like + more, less_like=less_like + less)


def _forgetting(state: State, text: str) -> State:
    """Return the state without the terms that hold a text, or without the last wanted one."""
    if text:
        gone = [term for term in state.terms if _words(text) in _words(_written(term))]
    else:
        gone = [term for term in state.terms if not term.excluded][-1:]
    if not gone:
        reason = f"nothing in the query says {text}" if text else "nothing is wanted that could be replaced"
        raise QueryError(reason, remedy=f"the query is {state}")
    return replace(state, query=_query(term for term in state.terms if term not in gone))


def _items(state: State, numbers: Iterable[int]) -> tuple[str, ...]:
    """Return the ids of hits by rank."""
    if not state.shown:
        raise QueryError("there are no hits to point at", remedy="say what to find")
    for number in numbers:
        if number != LAST and not 1 <= number <= len(state.shown):
            raise QueryError(f"there is no number {number}", remedy=f"hits have been shown up to {len(state.shown)}")
    return tuple(dict.fromkeys(state.shown[LAST if number == LAST else number - 1] for number in numbers))


def _query(terms: Iterable[Term]) -> Query | None:
    kept = tuple(terms)
    return Query(kept) if kept else None


def _written(term: Term) -> str:
    return term.content.casefold() if isinstance(term.content, str) else str(term)


def _words(text: str) -> str:
    """Return the words of a text with a space around each, so that `in` finds whole ones."""
    return " ".join(["", *re.findall(r"\w+", text.casefold()), ""])


def _hits(ids: Sequence[str]) -> str:
    return f"{len(ids)} hit{'s' if len(ids) > 1 else ''}"
