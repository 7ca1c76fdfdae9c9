"""The API against what a machine makes up from its own description: nothing fails, and every answer is as described."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
import schemathesis.specs.openapi.schemas  # now, while no other thread runs: see below
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serving import items_of, make_library
from xsearch.encoders import get_encoder
from xsearch.serve.app import create_app

# pytest rewrites the modules of its plugins, schemathesis among them, when they are first imported; Python 3.11 may
# fail at that ("AST constructor recursion depth mismatch") where another thread parses at the same time.
EXAMPLES = 25
HEADERS = {"Host": "localhost"}

ADDRESSES = [
    ("GET", "/api/v1/search"),
    ("POST", "/api/v1/search"),
    ("GET", "/api/v1/items/{item_id}"),
    ("GET", "/api/v1/items/{item_id}/thumbnail"),
    ("GET", "/api/v1/items/{item_id}/original"),
    ("GET", "/api/v1/items/{item_id}/explain"),
    ("GET", "/api/v1/items/{item_id}/moments"),
    ("GET", "/api/v1/stats"),
    ("GET", "/api/v1/skipped"),
    ("GET", "/api/v1/facets"),
    ("GET", "/api/v1/health"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_library(tmp_path_factory.mktemp("fuzz"), get_encoder())


@pytest.fixture(scope="module")
def described(data: Path) -> schemathesis.BaseSchema:
    app = create_app(data)
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers=HEADERS)


def test_all_that_is_described_is_asked(described: schemathesis.BaseSchema) -> None:
    told = [one.ok() for one in described.get_all_operations() if isinstance(one, Ok)]
    assert sorted((one.method.upper(), one.path) for one in told) == sorted(ADDRESSES)


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_every_answer_is_as_described(described: schemathesis.BaseSchema, data: Path, method: str, path: str) -> None:
    known = items_of(data)["film.mp4"].id
    statuses = set()

    @given(case=described[path][method].as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: schemathesis.Case[Any]) -> None:
        for item_id in (known, None) if "item_id" in case.path_parameters else (None,):
            if item_id is not None:
                case.path_parameters["item_id"] = item_id
            # No schema tells what the query language or a condition is: they may be refused.
            answer = case.call_and_validate(headers=HEADERS, excluded_checks=[positive_data_acceptance])
            statuses.add(answer.status_code)

    ask()
    assert 200 in statuses or path.endswith("/search")
    assert max(statuses) < 500
