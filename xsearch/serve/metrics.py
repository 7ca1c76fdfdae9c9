"""What the server counts, for Prometheus. The owner of prometheus_client."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xsearch.types import Kind

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one application; `text` is what Prometheus reads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter("xsearch_requests", "Requests.", ("method", "route", "status"), registry=self._registry)
        self.request_s = Histogram(
            "xsearch_request_seconds", "Time to answer, by route.", ("route",), registry=self._registry
        )
        self.stage_s = Counter(
            "xsearch_stage_seconds", "Time that batches of queries took.", ("stage",), registry=self._registry
        )
        self.batch = Histogram(
            "xsearch_batch_queries", "Queries in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry
        )
        self.reloads = Counter("xsearch_reloads", "New commits that were opened.", registry=self._registry)
        self.failed_reloads = Counter(
            "xsearch_failed_reloads", "New commits that could not be opened.", registry=self._registry
        )
        self.commit = Gauge("xsearch_commit", "The commit that answers.", registry=self._registry)
        self.items = Gauge("xsearch_items", "Items in the library, by kind.", ("kind",), registry=self._registry)

    def opened(self, commit: int, counts: dict[Kind, int]) -> None:
        self.commit.set(commit)
        for kind, count in counts.items():
            self.items.labels(kind.value).set(count)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class Counted:
    """ASGI middleware that counts requests and their time, by route: addresses of items would be without end."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        start_s = time.perf_counter()

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self._metrics.requests.labels(method, route, status).inc()
            self._metrics.request_s.labels(route).observe(time.perf_counter() - start_s)
