"""The turns of a conversation: which words change a query, and how.

What a turn means is settled by its words alone, so it can be foreseen:

    turn                                                     is understood as
    dogs | show me dogs | find dogs                          find dogs
    dogs without people | dogs, but no people                find dogs; leave out people
    "no parking"                                             find "no parking"
    2:dogs + ./pool.jpg - cars                               find 2:dogs + ./pool.jpg - cars
    only on the beach | and on the beach | now on the beach  add on the beach
    with a ball | also a ball | only those with a ball       add a ball
    - people + ./dog.jpg                                     add - people + ./dog.jpg
    without people | no people | but not people              leave out people
    except people | without any people                       leave out people
    no people or cars | no people and no cars                leave out people; leave out cars
    the third one | #3 | 3 | number three | the 3rd photo    start from 3
    the third one, but at night | #3 at night                start from 3; add at night
    the last one without people                              start from the last; leave out people
    more like 2 | like the second | similar to number 2      more like 2
    more like 2 and 4, but at night                          more like 2, 4; add at night
    not like the first | less like #1 | not the first one    less like 1
    instead of dogs, cats | cats instead of dogs             forget dogs; add cats
    cats instead                                             forget the last; add cats
    forget the people | never mind the people                forget people
    only pictures | only photos | images only                kind image
    only films | only videos                                 kind frame
    only texts | only captions                               kind text
    everything | all kinds                                   kind any
    show 20 | show me 20 hits | show 20 pictures             show 20
    show more | more | next                                  show more
    undo | back | go back                                    undo
    start over | reset                                       start over

- A turn that begins with none of these words is a new query, in the language of `query`. Quotes make it one whatever it
  begins with, and protect all that is between them.
- A turn is cut into clauses before `without` and `except`, before `but` or `and` with another of these words, and at a
  comma before any of them.
- A number is the rank of a hit that was shown. To start from a hit puts it in the place of all that was wanted; what is
  left out stays. More or less like a hit keeps the query.
- What is added is no longer left out, and the other way round. To forget takes away the terms that hold the words.
- Kind and number of hits stay until `start over`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, pairwise

from xsearch.errors import QueryError
from xsearch.types import Kind

MAX_CHARS = 10_000
LAST = -1

_CARDINALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NUMBERS = {word: number for words in (_CARDINALS, _ORDINALS) for number, word in enumerate(words, 1)} | {"last": LAST}
_NOUNS = {
    Kind.IMAGE: "pictures photos photographs images",
    Kind.FRAME: "films videos movies clips moments",
    Kind.TEXT: "texts captions notes",
}
_KINDS = {noun: kind for kind, nouns in _NOUNS.items() for noun in nouns.split()}

# Spaces are single where these are used (`_single_spaced`).
_DIGITS = r"[0-9]{1,9}"
_COUNT = rf"(?:{_DIGITS}|{'|'.join(_CARDINALS)})"
_PLACE = rf"(?:{'|'.join(_ORDINALS)}|last|{_DIGITS}(?:st|nd|rd|th))"
_NOUN = "(?:hit|result|picture|photo|photograph|image|film|video|movie|clip|moment|text)"
_NUMBERED = rf"(?:{_NOUN} )?(?:number {_COUNT}|(?:# ?)?{_DIGITS})"
_HIT = rf"(?:the {_PLACE}(?: one| {_NOUN})?|{_PLACE} (?:one|{_NOUN})|{_NUMBERED})(?!\w)"
_HITS = rf"{_HIT}(?:(?:,? and |,? or |, ?){_HIT})*"
_ADDING = "only(?: the ones| those| ones)?(?: with)?|with|more like|similar to|like"
_LEAVING = "without(?: any)?|except(?: for)?|not(?: like| with)?|no|less like|leave out"
_JOINING = "and|but|also|now"
_QUOTED = r'(?<![^\s:])"(?:\\.|[^"\\])*"'


def _pattern(written: str) -> re.Pattern[str]:
    return re.compile(written, re.IGNORECASE)


_WORDS = _pattern(rf"(?:(?:{_JOINING})(?: |$))*(?:(?:(?P<leaving>{_LEAVING})|{_ADDING})(?: |$))?")
_SIGNED = _pattern(r"""[+-](?=\s|[^\W\d_]|["'./~]|[0-9.]+:)""")
_POINTED = _pattern(
    rf"(?P<hits>{_HITS})(?:$|,? but |, ?| (?=(?:{_JOINING}|{_ADDING}) ))|(?P<one>the {_PLACE} one|#{_DIGITS}) (?=\S)"
)
_NUMBER = _pattern(rf"(?<=number )(?:{'|'.join(_CARDINALS)})\b|{'|'.join(_ORDINALS)}|last|{_DIGITS}")
_CLAUSE = _pattern(
    rf",? (?=(?:(?:but|and) )?(?:without|except) )|,? (?=(?:but|and) (?:{_LEAVING}|only|also|now|with) )"
    rf"|, ?(?=(?:{_JOINING}|{_LEAVING}|{_ADDING}) )"
)
_EITHER = _pattern(",? (?:or|nor) ")
_ASKING = _pattern(r"\A(?:please,? )?(?:(?:show me|find me|find|search for|look for) )?")
_KIND = _pattern(rf"(?:(?:{_JOINING}) )*(?P<only>only )?(?P<noun>{'|'.join(_KINDS)})(?(only)| only)")
_SHOW = _pattern(rf"show(?: me)? (?P<count>{_COUNT})(?: (?:hits|results|{'|'.join(_KINDS)}))?")
_FORGET = _pattern("(?:forget|never mind)(?: about)? (?P<old>.+)")
_INSTEAD = _pattern(",? instead(?: of |$)")
_INSTEAD_FIRST = _pattern("instead of ")
_COMMA = _pattern(", ?")
_ARTICLE = _pattern(r"\A(?:the|a|an|any|all) ")


class Action(StrEnum):
    """What an edit does to a query, in the words of the replies."""

    FIND = "find"
    ADD = "add"
    LEAVE_OUT = "leave out"
    START_FROM = "start from"
    MORE_LIKE = "more like"
    LESS_LIKE = "less like"
    FORGET = "forget"
    KIND = "kind"
    SHOW = "show"
    SHOW_MORE = "show more"
    UNDO = "undo"
    START_OVER = "start over"


_COMMANDS = {
    Action.SHOW_MORE: _pattern("(?:show (?:me )?)?more(?: hits| results)?|next(?: page)?"),
    Action.UNDO: _pattern("undo|(?:go )?back"),
    Action.START_OVER: _pattern("start over|start again|reset|forget everything"),
}
_EVERY_KIND = _pattern("(?:show )?(?:everything|all kinds|any kind)")
_OF_HITS = {
    Action.FIND: Action.START_FROM,
    Action.ADD: Action.MORE_LIKE,
    Action.LEAVE_OUT: Action.LESS_LIKE,
}


@dataclass(frozen=True, slots=True)
class Edit:
    """One change: `text` is a query, words or a kind; `numbers` are ranks, `LAST` for the last, or how many to show."""

    action: Action
    text: str = ""
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        numbers = ", ".join("the last" if number == LAST else str(number) for number in self.numbers)
        newest = "the last" if self.action is Action.FORGET else ""
        return f"{self.action} {self.text or numbers or newest}".rstrip()


def parse(turn: str) -> tuple[Edit, ...]:
    """Return the edits that a turn asks for, at least one. Raises QueryError if it asks for none, or is too long."""
    if len(turn) > MAX_CHARS:
        raise QueryError(f"the turn has {len(turn):,} characters", remedy=f"say it in at most {MAX_CHARS:,}")
    text = _single_spaced(turn)
    if not text:
        raise QueryError("nothing was said", remedy="say what to find")
    for action, command in _COMMANDS.items():
        if command.fullmatch(text):
            return (Edit(action),)
    if _EVERY_KIND.fullmatch(text):
        return (Edit(Action.KIND, "any"),)
    if show := _SHOW.fullmatch(text):
        return (Edit(Action.SHOW, numbers=(_number(show["count"]),)),)
    if forget := _FORGET.fullmatch(text):
        return (Edit(Action.FORGET, _ARTICLE.sub("", forget["old"])),)
    if _SIGNED.match(text):
        return (Edit(Action.ADD, text),)
    return tuple(_instead(text) or _edits(text, Action.FIND))


def _instead(text: str) -> list[Edit]:
    """Return the edits that put one thing in the place of another, none if the turn is not about that."""
    if first := _INSTEAD_FIRST.match(text):
        old, *new = _split(_COMMA, text[first.end() :], most=1)
    else:
        *new, old = _split(_INSTEAD, text, most=1)
        if not new:
            return []
    if not new:
        raise QueryError(f"what instead of {old}?", remedy=f'say "instead of {old}, ..."')
    return [Edit(Action.FORGET, _ARTICLE.sub("", old)), *_edits(new[0], Action.ADD)]


def _edits(text: str, bare: Action) -> Iterator[Edit]:
    """Yield the edits of all clauses; `bare` is what is done with a first one that begins with no word for it."""
    for clause in _split(_CLAUSE, _ASKING.sub("", text)):
        yield from _of_clause(clause, bare)
        bare = Action.ADD


def _of_clause(clause: str, bare: Action) -> Iterator[Edit]:
    while clause:
        if kind := _KIND.fullmatch(clause):
            yield Edit(Action.KIND, _KINDS[kind["noun"].lower()])
            return
        words = _WORDS.match(clause)
        assert words is not None  # every part of it may be missing
        said, rest = words[0], clause[words.end() :]
        if not rest:
            raise QueryError(f'"{said}" what?', remedy="say it, or quote the word to find it itself")
        action = Action.LEAVE_OUT if words["leaving"] else Action.ADD if said else bare
        pointed = _POINTED.match(rest)
        if pointed is None:
            things = _split(_EITHER, rest) if action is Action.LEAVE_OUT else [rest]
            yield from (Edit(action, thing) for thing in things)
            return
        numbers = tuple(_number(found) for found in _NUMBER.findall(pointed["hits"] or pointed["one"]))
        yield Edit(_OF_HITS[action], numbers=numbers)
        clause, bare = rest[pointed.end() :], Action.ADD


def _single_spaced(text: str) -> str:
    """Return the text with one space for white space that is not quoted, and without a full stop at the end."""
    spaced = re.sub(rf"({_QUOTED})|\s+", lambda found: found[1] or " ", text, flags=re.DOTALL)
    return spaced.strip().rstrip(" .!?")


def _split(pattern: re.Pattern[str], text: str, most: int = MAX_CHARS) -> list[str]:
    """Cut a text at what a pattern finds outside of quotes."""
    masked = re.sub(_QUOTED, lambda found: '"' * len(found[0]), text, flags=re.DOTALL)
    cuts = [found.span() for found in islice(pattern.finditer(masked), most)]
    return [text[start:end] for (_, start), (end, _) in pairwise([(0, 0), *cuts, (len(text), len(text))])]


def _number(written: str) -> int:
    return _NUMBERS.get(written.lower()) or int(written)
