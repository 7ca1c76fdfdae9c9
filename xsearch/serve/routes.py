"""The HTTP API, under /api/v1: each checks what it was asked, has the engine do it, and tells it as typed JSON."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, ParamSpec, TypeVar

from fastapi import APIRouter, Depends, Form, Path, Query, Request, Response, UploadFile
from pydantic import Field

from xsearch import __version__
from xsearch.errors import SourceError, Undecodable
from xsearch.explain import explain
from xsearch.library.where import Near
from xsearch.maintenance import stats
from xsearch.media.images import open_image
from xsearch.media.texts import SUFFIXES as TEXT_SUFFIXES
from xsearch.originals import read_original
from xsearch.query import Picture, Stored, Term
from xsearch.query import Query as Asked
from xsearch.searcher import Hits
from xsearch.serve.engine import Engine, Options
from xsearch.serve.files import bytes_response, file_response, indexed_file, is_sample
from xsearch.serve.models import (
    MAX_HITS,
    MAX_IMAGES,
    MAX_QUERY_CHARS,
    MAX_TERMS,
    PROBLEMS,
    AskedQuery,
    ExplanationRecord,
    Facets,
    FoundHit,
    Health,
    ItemId,
    ItemRecord,
    LibraryStats,
    Moment,
    Refused,
    SearchParameters,
    SearchResult,
    SkippedFile,
    SkippedFiles,
)
from xsearch.serve.thumbnails import SIDES_PX, Thumbnails, etag
from xsearch.types import Item, Kind, RGBImage

MAX_MOMENTS = 100

_P = ParamSpec("_P")
_R = TypeVar("_R")

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _thumbnails(request: Request) -> Thumbnails:
    thumbnails: Thumbnails = request.app.state.thumbnails
    return thumbnails


class SearchForm(SearchParameters):
    """The same as a form, with pictures to find the like of."""

    image: list[UploadFile] = Field([], max_length=MAX_IMAGES, description="Pictures, each one more term.")


Asks = Annotated[Engine, Depends(_engine)]
Id = Annotated[ItemId, Path(description="The id of an item.")]
Text = Annotated[str, Query(min_length=1, max_length=MAX_QUERY_CHARS, description="A query.")]


@router.get("/search")
async def search(parameters: Annotated[SearchParameters, Query()], engine: Asks) -> SearchResult:
    """Find items by a query."""
    return await _search(engine, parameters, [], [])


@router.post("/search")
async def search_with_pictures(form: Annotated[SearchForm, Form()], engine: Asks) -> SearchResult:
    """Find items by pictures, by a query, or by both."""
    image_px = engine.current.searcher.encoder.spec.image_px
    pictures = [await engine.run(open_image, await upload.read(), image_px) for upload in form.image]
    return await _search(engine, form, pictures, [upload.filename or "" for upload in form.image])


@router.get("/items/{item_id}")
async def item(item_id: Id, engine: Asks) -> ItemRecord:
    """Tell what is known of an item."""
    return ItemRecord.of(await engine.run(engine.current.item, item_id))


@router.get(
    "/items/{item_id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 304: {"description": "It has not changed."}},
)
async def thumbnail(
    item_id: Id,
    engine: Asks,
    thumbnails: Annotated[Thumbnails, Depends(_thumbnails)],
    request: Request,
    px: Annotated[int, Query(ge=1, le=SIDES_PX[-1], description="At least so long a side, if it has it.")] = 320,
) -> Response:
    """Show an item small and upright; of a film, the frame."""
    opened = engine.current
    shown = _picture(await engine.run(opened.item, item_id))
    tag = f'"{etag(shown, px)}"'
    # An hour without a question; then what is there is shown while the browser asks.
    headers = {"ETag": tag, "Cache-Control": "private, max-age=3600, stale-while-revalidate=604800"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    columns = opened.library.manifest.image_columns
    return Response(await _read(engine, shown, thumbnails.get, shown, px, columns), 200, headers, "image/jpeg")


@router.get(
    "/items/{item_id}/original",
    response_class=Response,
    responses={200: {"content": {"*/*": {}}}, 206: {"description": "The ranges that were asked for."}},
)
async def original(item_id: Id, engine: Asks) -> Response:
    """Hand out the file of an item, of a film's frame the film, in ranges if asked; or the picture inside an archive.

    Pictures and films of common formats may be shown, all else is saved.
    """
    opened = engine.current
    found = await engine.run(opened.item, item_id)
    if is_sample(found):
        columns = opened.library.manifest.image_columns
        return bytes_response(found, await _read(engine, found, read_original, found, columns), found.part)
    if found.kind is Kind.TEXT and found.file.suffix.lower() not in TEXT_SUFFIXES:
        # A row of a table, or a caption in an archive, and no passage of a file: the text is all there is of it.
        return bytes_response(found, (found.text or "").encode(), f"{found.id}.txt")
    return await _read(engine, found, file_response, found)


@router.get("/items/{item_id}/explain")
async def explanation(item_id: Id, q: Text, engine: Asks) -> ExplanationRecord:
    """Tell where a picture, or a frame, shows what the wanted texts of a query say, and which of their words count."""
    opened = engine.current
    shown = _picture(await engine.run(opened.item, item_id))
    texts = [term.content for term in _asked(q).wanted if isinstance(term.content, str)]
    if not texts:
        raise Refused(422, "the query holds no text that is wanted", remedy="say what the picture is to show")
    if not is_sample(shown):
        await engine.run(indexed_file, shown)
    picture = await _read(engine, shown, read_original, shown, opened.library.manifest.image_columns)
    return ExplanationRecord.of(await engine.run(explain, opened.searcher.encoder, " ".join(texts), picture))


@router.get("/items/{item_id}/moments")
async def moments(item_id: Id, q: Text, engine: Asks) -> list[Moment]:
    """Tell where in the film of a frame a query is found, best first; of anything else, nowhere."""
    found = await engine.run(engine.current.item, item_id)
    if found.kind is not Kind.FRAME:
        return []
    path = str(found.file).replace("'", "''")
    query = _asked(q)
    options = Options(k=MAX_MOMENTS, kind=Kind.FRAME, where=f"path = '{path}'", named=_named(query.terms))
    hits = await engine.search(query, options)
    return [Moment.model_validate(hit.to_dict()) for hit in hits]


@router.get("/stats")
async def library_stats(engine: Asks) -> LibraryStats:
    """Tell what the library holds and the recall that was measured."""
    return LibraryStats.model_validate(await engine.run(stats, engine.data))


@router.get("/skipped")
async def skipped(
    engine: Asks,
    k: Annotated[int, Query(ge=1, le=MAX_HITS, description="How many files.")] = 100,
    offset: Annotated[int, Query(ge=0, description="How many to pass over.")] = 0,
) -> SkippedFiles:
    """Name the files that were seen and not indexed, with the reason."""
    files = await engine.run(engine.current.library.skipped)
    page = [SkippedFile(path=one.path, reason=one.reason, detail=one.detail) for one in files[offset : offset + k]]
    return SkippedFiles(total=len(files), skipped=page)


@router.get("/facets")
async def library_facets(engine: Asks) -> Facets:
    """Tell what there is to choose from: folders, months, places, kinds."""
    opened = engine.current
    return await engine.run(lambda: opened.facets)


@router.get("/health")
async def health(engine: Asks) -> Health:
    """Tell whether answers come from the last commit."""
    opened = engine.current
    return Health(
        status="ok" if engine.problem is None else "stale",
        version=__version__,
        commit=opened.commit,
        items=sum(opened.counts.values()),
        problem=engine.problem,
    )


async def _search(
    engine: Engine, parameters: SearchParameters, pictures: Sequence[RGBImage], names: list[str]
) -> SearchResult:
    k, offset = parameters.k, parameters.offset
    if offset + k > MAX_HITS:
        raise Refused(422, f"{offset + k:,} hits cannot be shown", remedy=f"ask for at most {MAX_HITS:,} in all")
    typed = parameters.q.strip()
    terms = (*(_asked(typed).terms if typed else ()), *(Term(Picture(pixels)) for pixels in pictures))
    if not terms and not parameters.more_like:
        raise Refused(422, "nothing is asked", remedy="give a query, a picture, or items to find more like")
    options = Options(
        k=offset + k,
        kind=parameters.kind,
        group=parameters.group,
        where=_condition(parameters.where, parameters.near),
        fusion=parameters.fusion,
        rerank=parameters.rerank,
        more_like=tuple(parameters.more_like),
        less_like=tuple(parameters.less_like),
        words=parameters.words,
        named=_named(terms),
    )
    hits: Hits = await engine.search(Asked(terms) if terms else None, options)
    return SearchResult(
        query=AskedQuery(text=typed or None, images=names, k=k, offset=offset, kind=parameters.kind),
        took_ms={stage: took_ms for stage, took_ms in hits.took_ms.items() if stage != "load"},
        good_match=hits.good_match,
        hits=[FoundHit.model_validate(hit.to_dict()) for hit in hits[offset:]],
    )


def _asked(q: str) -> Asked:
    """Read a query. Raises QueryError, and Refused for one that names files or addresses, or has too many terms."""
    query = Asked.parse(q)
    if any(isinstance(term.content, Picture) for term in query.terms):
        raise Refused(
            422,
            "no file or address is opened here",
            remedy="send the picture itself, name an item of the library as item:ID, or quote what is meant as text",
        )
    if len(query.terms) > MAX_TERMS:
        raise Refused(422, f"the query has {len(query.terms)} terms", remedy=f"name at most {MAX_TERMS}")
    return query


def _named(terms: Iterable[Term]) -> frozenset[str]:
    """Return the ids of items among the terms."""
    return frozenset(term.content.item_id for term in terms if isinstance(term.content, Stored))


def _condition(where: str | None, near: str | None) -> str | None:
    """Return both conditions as one."""
    if near is None:
        return where
    # The bracket on a line of its own: a condition may end in a comment.
    return Near.parse(near).where if where is None else f"({where}\n) AND {Near.parse(near).where}"


def _picture(found: Item) -> Item:
    """Return an item that can be looked at. Raises Refused (404) for a text."""
    if found.kind is Kind.TEXT:
        raise Refused(404, f"{found.id} is a text", remedy="name a picture, or a frame of a film")
    return found


async def _read(engine: Engine, found: Item, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Have something done with the original of an item. Raises Refused (404) if it is not there any more."""
    try:
        return await engine.run(function, *args, **kwargs)
    except (OSError, SourceError, Undecodable) as error:
        raise Refused(404, f"the original of {found.id} cannot be read: {error}", remedy="`xsearch index`") from error
