"""Scene graphs over HTTP: an image in, its graph as JSON out. Requests of one moment share a pass of the network."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from fastapi import FastAPI, HTTPException, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import UploadFile
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import __version__
from .data.uploads import Limits, check_upload
from .images import ImageError, open_image, read_image
from .predictor import SceneGraphPredictor
from .scene_graph import SceneGraph
from .utils.batcher import Batcher
from .utils.program import TERMINAL
from .visualization.app_guard import Guard, Hosts

PATH = "/scene-graph"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # bounds of the latency's bins
STATUSES = {400: "No image", 413: "Too large", 503: "Try again soon", 504: "Took too long"}
GRAPH = "#/components/schemas/SceneGraph"
BATCHES = (1, 2, 4, 8, 16, 32, 64)
IMAGE = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "required": ["image"], "properties": {"image": IMAGE["schema"]}}}
BODY = {"required": True, "content": {"image/*": IMAGE, "multipart/form-data": FORM}}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a server works.

    Attributes:
        limits: of uploads; the seconds are those from a request's head to its answer.
        max_batch: most images of a batch.
        max_wait: seconds that the first image of a batch waits for others.
        queue: most requests at a time; more are told to come again.
        threads: that decode images.
    """

    limits: Limits = field(default_factory=Limits)
    max_batch: int = 8
    max_wait: float = 0.01
    queue: int = 64
    threads: int = 4


class Service:
    """A model behind a queue: images to scene graphs, with metrics.

    Attributes:
        predictor: the model; None until it is loaded.
        draining: new requests are refused, since the server is going to end.
        in_flight: requests that are not answered yet.
        failure: the error that ends the server.
    """

    def __init__(self, load: Callable[[], SceneGraphPredictor], settings: Settings):
        self.load, self.settings = load, settings
        self.predictor: SceneGraphPredictor | None = None
        self.draining, self.in_flight = False, 0
        self.failure: Exception | None = None
        self.batcher = Batcher(self._parse, settings.max_batch, settings.max_wait)
        self.decoders = ThreadPoolExecutor(settings.threads)
        self.registry = registry = CollectorRegistry()
        text = "Answers by status, errors from 400 on"
        self.requests = Counter("usg_psg_requests", text, ["status"], registry=registry)
        self.seconds = Histogram("usg_psg_request_seconds", "Of an answer", buckets=SECONDS, registry=registry)
        self.batches = Histogram("usg_psg_batch_images", "Images of a batch", buckets=BATCHES, registry=registry)
        for name, text, value in (
            ("usg_psg_queue_length", "Images that wait for a batch", lambda: len(self.batcher.waiting)),
            ("usg_psg_requests_in_flight", "Requests without an answer yet", lambda: self.in_flight),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.predictor is not None and not self.draining

    async def run(self) -> None:
        """Load the model and work for ever; an error ends the server."""
        try:
            loop = asyncio.get_running_loop()
            self.predictor = await loop.run_in_executor(self.batcher.thread, self.load)
            await self.batcher.run()
        except Exception as error:
            self.failure = error

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request; HTTPException if it cannot be taken now."""
        if not self.ready or self.in_flight >= self.settings.queue:
            why = "the server is ending" if self.draining else "the model is loading"
            why = "too many requests wait" if self.ready else why
            raise HTTPException(503, f"Try again soon: {why}.", {"Retry-After": "1"})
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def parse(self, request: Request) -> SceneGraph:
        """The graph of a request's image; HTTPException where there is none."""
        content = await _image_of(request)
        try:
            prepared = await asyncio.get_running_loop().run_in_executor(self.decoders, self._prepare, content)
        except ImageError as error:
            raise HTTPException(400, f"The upload: {error.message}") from None
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        try:
            return await self.batcher.result(prepared)
        except MemoryError:
            raise HTTPException(413, "There is not enough memory for this image; try a smaller one.") from None

    def _prepare(self, content: bytes) -> dict:
        assert self.predictor is not None
        check_upload(content, self.settings.limits)
        return self.predictor.prepare(read_image(open_image(BytesIO(content)), "RGB"))

    def _parse(self, prepared: list[dict]) -> list[SceneGraph | Exception]:
        """Graphs of a batch; where it fails, those of the images alone, so that one of them spoils no other."""
        assert self.predictor is not None
        try:
            graphs = self.predictor.run(prepared)
            self.batches.observe(len(prepared))
            return [*graphs]
        except Exception as error:
            if len(prepared) > 1:
                return [self._parse([each])[0] for each in prepared]
            if type(error).__name__ == "OutOfMemoryError":
                return [MemoryError()]
            return [error]

    def information(self) -> dict[str, Any]:
        """The model: version of the package, names, config, limits; no folders of this machine."""
        assert self.predictor is not None
        own, cfg = self.predictor.own_vocabulary, yaml.safe_load(self.predictor.cfg.dump())
        return {
            "version": __version__,
            "weights": Path(self.predictor.cfg.MODEL.WEIGHTS).name,
            "device": str(self.predictor.model.device),
            "thing_classes": own.thing_classes,
            "stuff_classes": own.stuff_classes,
            "predicate_classes": own.predicate_classes,
            "settings": asdict(self.settings),
            "config": _without_folders({key: cfg[key] for key in ("INPUT", "MODEL", "TEST")}),
        }


class Measured:
    """ASGI middleware that counts and times the requests for graphs, also those that are refused."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        if scope["type"] != "http" or scope["path"] != PATH:
            return await self.app(scope, receive, send)
        begin, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self.service.requests.labels(status).inc()
            self.service.seconds.observe(time.perf_counter() - begin)


def build_server(service: Service, hosts: Hosts) -> FastAPI:
    """The web application of a service, which loads its model when it starts."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(service.run())
        yield
        work.cancel()

    app = FastAPI(title="Panoptic scene graphs", version=__version__, lifespan=lifespan)
    app.add_middleware(Guard, hosts=hosts, upload=int(service.settings.limits.megabytes * 1e6), upload_path=PATH)
    app.add_middleware(Measured, service=service)
    answers: dict[int | str, dict] = {status: {"description": text} for status, text in STATUSES.items()}
    answers[200] = {"content": {"application/json": {"schema": {"$ref": GRAPH}}}}

    @app.post(PATH, openapi_extra={"requestBody": BODY}, responses=answers, response_class=Response)
    async def scene_graph(
        request: Request,
        top_k: int | None = Query(None, ge=0, description="Most relations; all by default."),
        score_threshold: float = Query(0.0, ge=0, le=1, description="Least score of a relation."),
        constrained: bool = Query(False, description="Only the best predicate of each ordered pair."),
    ) -> Response:
        """Parse an image, sent as the body or as the file `image` of a form."""
        seconds = service.settings.limits.seconds
        with service.admitted():
            try:
                graph = await asyncio.wait_for(service.parse(request), seconds)
            except asyncio.TimeoutError:
                raise HTTPException(504, f"This took more than {seconds:g} seconds; try a smaller image.") from None
            graph = (graph.constrained() if constrained else graph).top(top_k, score_threshold)
            text = await asyncio.get_running_loop().run_in_executor(service.decoders, graph.to_json)
        return Response(text, media_type="application/json")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answer as long as the process works."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Say whether requests are taken: 503 while the model loads, and when the server is going to end."""
        if not service.ready:
            raise HTTPException(503, "not ready")
        return {"status": "ready"}

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """Describe the model and the limits."""
        if service.predictor is None:
            raise HTTPException(503, "The model is loading.", {"Retry-After": "1"})
        return service.information()

    @app.get("/metrics")
    async def metrics() -> Response:
        """Give Prometheus its numbers."""
        return Response(generate_latest(service.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.openapi()["components"]["schemas"]["SceneGraph"] = _graph_schema()
    return app


def _graph_schema() -> dict[str, Any]:
    """The JSON Schema of scene graphs, as a part of the OpenAPI page."""
    text = files(__package__).joinpath("scene_graph.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text.replace("#/$defs", f"{GRAPH}/$defs"))
    return {key: value for key, value in schema.items() if key not in ("$id", "$schema")}


class Server(uvicorn.Server):
    """Ends after the last answer: SIGTERM or Ctrl-C has it refuse new requests; a second one ends it at once."""

    def __init__(self, service: Service, host: str = "127.0.0.1", port: int = 8000, allow_hosts: Iterable[str] = ()):
        app = build_server(service, Hosts(host, allow_hosts))
        super().__init__(uvicorn.Config(app, host, port, log_level="warning", access_log=False, server_header=False))
        self.service = service

    async def startup(self, sockets: list | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        host, port, *_ = self.servers[0].sockets[0].getsockname()
        logger.info("serving at http://%s:%d; Ctrl-C ends it", host, port, extra=TERMINAL)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to end."""
        if self.service.draining:
            os._exit(128 + sig)
        self.service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to end now; asked ten times a second."""
        done = self.service.draining and not self.service.in_flight
        return done or self.service.failure is not None or await super().on_tick(counter)


async def _image_of(request: Request) -> bytes:
    """The body, or the file of a form."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await request.body()
    async with request.form(max_files=1, max_fields=0) as form:
        upload = form.get("image")
        if not isinstance(upload, UploadFile):
            raise HTTPException(400, 'The form has no file "image".')
        return await upload.read()


def _without_folders(value: Any) -> Any:
    """A config whose paths are names of files."""
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    return Path(value).name if isinstance(value, str) and os.sep in value else value
