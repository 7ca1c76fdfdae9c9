"""What the HTTP API takes and gives, as types: OpenAPI is made of these."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from xsearch.errors import XSearchError
from xsearch.explain import Explanation
from xsearch.moments import Group
from xsearch.ranking.fusion import Fusion
from xsearch.searcher import Rerank
from xsearch.types import Item, Kind

MAX_QUERY_CHARS = 2_000
MAX_TERMS = 16
MAX_IMAGES = 4
MAX_K = 1_000
MAX_HITS = 10_000
"""Hits beyond the first so many are not shown, a page at a time or at once."""
MAX_JUDGED = 50

ItemId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class SearchParameters(BaseModel):
    """What to find, and how: the parameters of `Searcher.query`."""

    model_config = ConfigDict(extra="forbid")

    q: str = Field(
        "",
        max_length=MAX_QUERY_CHARS,
        description='A query: `a beach + "sunset" - people`, weights as `2:dog`, items of the library as `item:ID`. '
        f"At most {MAX_TERMS} terms; no files, no addresses.",
    )
    k: int = Field(20, ge=1, le=MAX_K, description="How many hits.")
    offset: int = Field(0, ge=0, le=MAX_HITS - 1, description="How many to pass over.")
    kind: Kind | Literal["any"] = Field("any", description="What to find.")
    group: Group = Field(Group.MOMENT, description="What frames of films come back as.")
    where: str | None = Field(None, max_length=MAX_QUERY_CHARS, description="A condition, as `width > 2000`.")
    near: str | None = Field(None, max_length=100, description="Only within LAT,LON,KM.")
    fusion: Fusion = Field(Fusion.LATE, description="How several terms are combined.")
    rerank: Rerank | None = Field(None, description="By what the best pictures are put in another order.")
    words: bool = Field(True, description="Find what holds the words of the query, too.")
    more_like: list[ItemId] = Field([], max_length=MAX_JUDGED, description="Items to find more like.")
    less_like: list[ItemId] = Field([], max_length=MAX_JUDGED, description="Items to find less like.")


class FoundHit(BaseModel):
    """A hit, as `xsearch query --json` prints it."""

    rank: int
    score: float
    confidence: float | None
    kind: Kind
    path: str
    item_id: str
    t_start_s: float | None
    t_end_s: float | None
    text: str | None
    width: int | None
    height: int | None


class AskedQuery(BaseModel):
    """The query as it was understood; `images` are the names of the pictures that came with it."""

    text: str | None
    images: list[str]
    k: int
    offset: int
    kind: Kind | Literal["any"]


class SearchResult(BaseModel):
    """Hits, best first. `took_ms` tells where the time went; queries that come together share it."""

    query: AskedQuery
    took_ms: dict[str, float]
    good_match: bool
    hits: list[FoundHit]


class ItemRecord(BaseModel):
    """What is known of an item. `bytes` and `modified` are of its file, `pair` is the item that it belongs to."""

    item_id: str
    kind: Kind
    path: str
    name: str
    part: str
    pair: str | None
    bytes: int
    modified: datetime
    text: str | None
    width: int | None
    height: int | None
    taken_at: str | None
    camera: str | None
    gps_lat: float | None
    gps_lon: float | None
    t_start_s: float | None
    t_end_s: float | None
    shot: int | None

    @classmethod
    def of(cls, item: Item) -> Self:
        return cls(
            item_id=item.id,
            kind=item.kind,
            path=str(item.file),
            name=item.file.name,
            part=item.part,
            pair=item.pair,
            bytes=item.bytes,
            modified=datetime.fromtimestamp(item.mtime_ns // 1_000_000_000, UTC),
            text=item.text,
            width=item.width,
            height=item.height,
            taken_at=item.taken_at,
            camera=item.camera,
            gps_lat=item.gps_lat,
            gps_lon=item.gps_lon,
            t_start_s=item.t_start_s,
            t_end_s=item.t_end_s,
            shot=item.shot,
        )


class SeenPart(BaseModel):
    """The part of a picture that the encoder saw, in shares of its height and width."""

    top: float
    left: float
    height: float
    width: float


class ExplanationRecord(BaseModel):
    """Why a picture answers to a text, as `xsearch explain --json` prints it."""

    text: str
    score: float
    grid: tuple[int, int]
    frame: SeenPart
    words: list[str]
    weights: list[float]
    relevance: list[list[float]]
    attention: list[list[float]]
    heat: list[float]
    word_heat: list[list[float]]

    @classmethod
    def of(cls, found: Explanation) -> Self:
        seen = found.frame
        return cls(
            text=found.text,
            score=found.score,
            grid=found.grid,
            frame=SeenPart(top=seen.top, left=seen.left, height=seen.height, width=seen.width),
            words=list(found.words),
            weights=found.weights.tolist(),
            relevance=found.relevance.tolist(),
            attention=found.attention.tolist(),
            heat=found.heat.tolist(),
            word_heat=found.word_heat.tolist(),
        )


class Moment(BaseModel):
    """A stretch of a film, in seconds, and its best frame."""

    t_start_s: float
    t_end_s: float
    score: float
    confidence: float | None
    item_id: str


class LibraryStats(BaseModel):
    """What the library holds, as `xsearch stats --json` prints it. Sizes are bytes."""

    model_config = ConfigDict(extra="allow")

    data: str
    items: dict[str, int]
    removed_rows: int
    shards: int
    bytes: int
    encoder: str
    dim: int
    weights: str
    index: dict[str, Any]
    faiss: dict[str, Any]
    skipped: dict[str, int]
    commit: int


class SkippedFile(BaseModel):
    path: str
    reason: str
    detail: str


class SkippedFiles(BaseModel):
    """Files that were seen and not indexed: how many, and a page of them."""

    total: int
    skipped: list[SkippedFile]


class FolderCount(BaseModel):
    path: str
    count: int


class MonthCount(BaseModel):
    month: str
    count: int


class PlaceCount(BaseModel):
    """Pictures taken near one another: the middle of them, and one of them."""

    lat: float
    lon: float
    count: int
    item_id: str


class Facets(BaseModel):
    """What there is to choose from: items by folder, by the month they were taken in, by place and by kind."""

    folders: list[FolderCount]
    months: list[MonthCount]
    places: list[PlaceCount]
    kinds: dict[Kind, int]


class Health(BaseModel):
    """Whether answers come from the last commit of the library; `problem` says why not."""

    status: Literal["ok", "stale"]
    version: str
    commit: int
    items: int
    problem: str | None


class Problem(BaseModel):
    """What went wrong (RFC 9457), and what mends it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    remedy: str = ""

    @classmethod
    def of(cls, status: int, detail: str, remedy: str = "") -> Self:
        return cls(title=HTTPStatus(status).phrase, status=status, detail=detail, remedy=remedy)


class Refused(XSearchError):
    """A request that is answered with a problem of this HTTP status."""

    def __init__(self, status: int, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


PROBLEMS: dict[int | str, dict[str, Any]] = {
    statuses: {
        "description": "What went wrong, and what mends it.",
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
    for statuses in ("4XX", "5XX")
}
"""What OpenAPI says of answers that tell of an error."""
