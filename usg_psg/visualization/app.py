"""A web page that turns uploaded images into scene graphs; needs gradio (the extra "app")."""

from __future__ import annotations

import functools
import html
import os
import stat
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import gradio as gr
import numpy as np
import torch
from gradio.data_classes import FileData, ImageData, ListFiles
from gradio.utils import get_upload_folder

from ..data.uploads import Limits, check_upload
from ..evaluation.given_objects import read_upload
from ..images import read_image
from ..masks import Objects
from ..scene_graph import SceneGraph
from ..utils.text import counted
from ..vocabulary import Vocabulary
from .app_guard import Guard, Hosts
from .figures import to_array
from .graph import WEAK_SCORE, draw_graph
from .overlay import draw_overlay

if TYPE_CHECKING:
    from ..predictor import SceneGraphPredictor

LONGEST_SHOWN = 1600  # pixels of the images on the page
MAX_NAME = 80  # characters
KEPT_FILES = 32
MASK_PIXELS = 2 * 10**9  # of all masks that a visitor brings, a byte each
NOT_ARRIVED = "The file did not arrive; send it as a file."
COLUMNS = ["rank", "subject", "predicate", "object", "score"]
# Without it, gradio's title and buttons lie over the upper corners of the images and hide names there, and a tall
# image pushes the button and the results out of sight.
STYLE = """
#overlay, #graph { padding-top: 2.4rem; }
#overlay .image-container, #graph .image-container { position: static; }
#image img { max-height: 50vh; }
#overlay img, #graph img { max-height: 85vh; }
"""


class BadInputError(ValueError):
    """What the visitor gave cannot be used; the message says why."""


def read_names(text: str, what: str, limits: Limits) -> list[str]:
    """Names of a text box, one per line, each once, without empty lines; ValueError if they are too many or long."""
    names = list(dict.fromkeys(line.strip() for line in (text or "").splitlines() if line.strip()))
    if len(names) > limits.names:
        raise ValueError(f"{len(names)} {what} names were given; at most {limits.names} are taken.")
    for name in names:
        if len(name) > MAX_NAME:
            raise ValueError(f"The {what} name {name[:20]}... has {len(name)} letters; at most {MAX_NAME} are taken.")
    return names


class Session:
    """Parses uploads; one at a time, because the vocabulary belongs to the model and not to the visitor.

    Args:
        predictors: models by the name that the page shows.
        limits: of uploads.
    """

    def __init__(self, predictors: Mapping[str, SceneGraphPredictor], limits: Limits):
        self.predictors, self.limits = predictors, limits
        self.lock = threading.Lock()
        self.folder = tempfile.TemporaryDirectory(prefix="usg_psg_app_")
        self.written: deque[Path] = deque()
        self.count = 0

    def parse(
        self,
        path: str | None,
        model: str,
        top_k: int,
        threshold: float,
        objects: str,
        predicates: str,
        given: Sequence[str] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, list[list], str, str]:
        """Parse one upload, in `limits.seconds`; work that takes longer ends in the background.

        Args:
            path: the uploaded file, None for none.
            model: a name of `predictors`.
            top_k, threshold: most relations that are shown, and the least score of those.
            objects, predicates: names, one per line; empty for the model's own. Stuff of the model stays stuff.
            given: uploaded files with the objects' masks and labels, as `read_upload` takes them; none finds objects.

        Returns:
            Overlay and graph as (H, W, 3) uint8 RGB, rows of the table, path of the JSON file, a sentence.

        Raises:
            BadInputError: with a message for the visitor.
        """
        if not path:
            raise BadInputError("Choose an image first.")
        job: Future = Future()

        def work() -> None:
            with self.lock:
                if not job.set_running_or_notify_cancel():
                    return  # given up while it waited
                try:
                    names = (objects, predicates)
                    job.set_result(self._parse(path, model, int(top_k), float(threshold), names, given or ()))
                except BaseException as error:
                    job.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            return job.result(self.limits.seconds)
        except TookTooLong:
            job.cancel()
            text = f"This took more than {self.limits.seconds:g} seconds; try a smaller image, or fewer names."
            raise BadInputError(text) from None
        except torch.cuda.OutOfMemoryError:
            raise BadInputError("There is not enough memory for this image; try a smaller one.") from None
        except (ValueError, FileNotFoundError) as error:
            raise BadInputError(str(error).replace(path, Path(path).name)) from None

    def _parse(
        self, path: str, model: str, top_k: int, threshold: float, names: tuple[str, str], given: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, list[list], str, str]:
        check_upload(path, self.limits)
        image = read_image(path, "RGB")
        self._set_vocabulary(model, *names)
        graph = self.predictors[model](image, *(self._given(path, image, given) if given else ()))
        file = self._write(graph)
        best = graph.constrained()
        shown = best.top(top_k, threshold)
        scale = LONGEST_SHOWN / max(image.shape[:2])
        overlay = draw_overlay(image, shown, scale if scale < 1 else None)
        rows = [
            [n, shown.objects[r.subject].label, r.predicate, shown.objects[r.object].label, round(r.score, 3)]
            for n, r in enumerate(shown.relations, start=1)
        ]
        text = (
            f"{counted(len(graph.objects), 'object')}{' given, ' if given else ' and '}"
            f"{counted(len(best.relations), 'relation')} found, {counted(len(rows), 'relation')} shown. "
            "The JSON file has all of them."
        )
        return overlay, to_array(draw_graph(shown)), rows, file, text

    def own_names(self, model: str) -> tuple[str, str]:
        """The model's object and predicate names, one per line."""
        own = self.predictors[model].own_vocabulary
        return "\n".join(own.object_classes), "\n".join(own.predicate_classes)

    def _set_vocabulary(self, model: str, objects: str, predicates: str) -> None:
        predictor = self.predictors[model]
        own = predictor.own_vocabulary
        names = read_names(objects, "object", self.limits) or own.object_classes
        vocabulary = Vocabulary(
            tuple(name for name in names if name not in own.stuff_classes),
            tuple(name for name in names if name in own.stuff_classes),
            tuple(read_names(predicates, "predicate", self.limits) or own.predicate_classes),
        )
        predictor.set_vocabulary(vocabulary)

    def _given(self, path: str, image: np.ndarray, files: Sequence[str]) -> Objects:
        """Masks and labels of the uploaded files; ValueError in the visitor's words."""
        for file in files:
            if file.lower().endswith(".png"):
                check_upload(file, self.limits)
        with tempfile.TemporaryDirectory(prefix="usg_psg_given_") as folder:
            try:
                masks, labels = read_upload([Path(file) for file in files], Path(path).stem, Path(folder))
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(f"Masks and labels: {str(error).replace(folder + os.sep, '')}") from None
        height, width = image.shape[:2]
        if len(masks) * height * width > MASK_PIXELS:
            most = MASK_PIXELS // (height * width)
            raise ValueError(
                f"Masks and labels: {len(masks)} objects; at most {most} are taken in an image this large."
            )
        return masks, labels

    def _write(self, graph: SceneGraph) -> str:
        """A file for the download button; gradio keeps its own copy, so only the newest ones stay here."""
        self.count += 1
        path = Path(self.folder.name) / f"scene_graph_{self.count}.json"
        path.write_text(graph.to_json(), encoding="utf-8")
        self.written.append(path)
        while len(self.written) > KEPT_FILES:
            self.written.popleft().unlink(missing_ok=True)
        return str(path)


def build_app(predictors: Mapping[str, SceneGraphPredictor], limits: Limits | None = None) -> gr.Blocks:
    """The page of one or more models, by the name that it shows, ready for `launch_app`."""
    if not predictors:
        raise ValueError("predictors: expected at least one model, got none")
    limits = limits or Limits()
    session = Session(predictors, limits)
    with gr.Blocks(title="Scene graphs", analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        gr.Markdown(
            "# Panoptic scene graphs\nObjects of an image, their masks, and how they relate. At most "
            f"{limits.megabytes:g} MB and {limits.megapixels:g} million pixels; JPEG, PNG, WebP, BMP or TIFF."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                controls = _controls(list(predictors), session)
                button = gr.Button("Find the scene graph", variant="primary")
            with gr.Column(scale=2, min_width=480):
                status = gr.HTML(_text("What is found in the image will be shown here."), elem_id="status")
                # Without gradio's share button, which sends the image to another server.
                look: dict[str, Any] = {"format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
                overlay = gr.Image(label="Objects", elem_id="overlay", **look)
                graph = gr.Image(label="Scene graph", elem_id="graph", **look)
                table = gr.Dataframe(label="Relations", headers=COLUMNS, interactive=False, elem_id="relations")
                download = gr.DownloadButton("Download JSON", interactive=False, elem_id="json")
        button.click(_answer(session), controls, [overlay, graph, table, download, status], api_name="parse")
    # One image at a time: the model is shared.
    app.queue(default_concurrency_limit=1, max_size=20)
    return app


def launch_app(
    app: gr.Blocks,
    limits: Limits,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    allow_hosts: Iterable[str] = (),
    **more: Any,
) -> tuple[Any, str, str | None]:
    """Serve the page; returns the FastAPI app, the local address, and the public one or None.

    Args:
        limits: its megabytes bound what the server takes in.
        host, port: where it listens.
        share: ask gradio for a public address.
        allow_hosts: names under which it is served besides those of `host`, see `Hosts`.
        more: for gradio's `launch`.
    """
    # The default theme asks a font server.
    theme = gr.themes.Default(
        primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
    )
    hosts = Hosts(host, allow_hosts)

    @asynccontextmanager
    async def guarded(server: Any) -> AsyncIterator[None]:
        # Around everything, so before the first request; gradio's own middleware would answer foreign origins.
        server.middleware_stack = Guard(server.middleware_stack, hosts, int(limits.megabytes * 1e6))
        yield

    served, local, public = app.launch(
        server_name=host,
        server_port=port,
        share=share,
        max_file_size=int(limits.megabytes * 1e6),
        theme=theme,
        css=STYLE,
        app_kwargs={"lifespan": guarded},
        **more,
    )
    if public:
        hosts.allowed.add(urlsplit(public).hostname or "")
    return served, local, public


def _controls(models: list[str], session: Session) -> list[gr.components.Component]:
    """Components whose values `Session.parse` takes, in its order."""
    image = gr.Image(
        label="Image", type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"], elem_id="image"
    )
    _take_uploads_only(image)
    model = gr.Dropdown(models, value=models[0], label="Model", interactive=len(models) > 1)
    top_k = gr.Slider(1, 100, value=10, step=1, label="Relations shown", elem_id="top_k")
    threshold = gr.Slider(0.0, 1.0, value=WEAK_SCORE, step=0.01, label="Least score", elem_id="threshold")
    with gr.Accordion("Vocabulary", open=False):
        hint = "one name per line; empty: the model's own"
        objects = gr.Textbox(label="Objects", lines=5, max_lines=12, placeholder=hint, elem_id="objects")
        predicates = gr.Textbox(label="Predicates", lines=5, max_lines=12, placeholder=hint, elem_id="predicates")
        own = gr.Button("Insert the model's names", size="sm")
        own.click(session.own_names, model, [objects, predicates], api_visibility="private")
    with gr.Accordion("Masks and labels", open=False):
        gr.Markdown(
            "Relate objects that you bring: a scene graph, or predictions or a PSG file that name this image, as "
            "JSON, with the panoptic PNG that they name."
        )
        given = gr.File(file_count="multiple", file_types=[".json", ".png"], label="JSON and PNG", elem_id="given")
        _take_uploads_only(given)
    return [image, model, top_k, threshold, objects, predicates, given]


def _answer(session: Session) -> Callable:
    """`Session.parse` for the page: what cannot be used clears the last results and says why, and stays to be read."""

    @functools.wraps(session.parse)
    def parse(*values: Any) -> tuple:
        try:
            overlay, graph, rows, file, text = session.parse(*values)
        except BadInputError as error:
            gr.Warning(html.escape(str(error)), title="This did not work")
            text = _text(f"This did not work: {error}")
            return None, None, [], gr.DownloadButton(value=None, interactive=False), text
        return overlay, graph, rows, gr.DownloadButton(value=file, interactive=True), _text(text)

    return parse


def _text(text: str) -> str:
    """Text as HTML that shows it letter by letter: it may hold names and file names of a visitor."""
    return f"<p>{html.escape(text)}</p>"


def _take_uploads_only(component: Any) -> None:
    """Let a gr.Image or gr.File give paths of uploads; gradio has no hook for it, hence no type that allows it.

    gradio would open an image before anything is checked, and answer a broken one with "Error".
    """
    component.preprocess = _uploaded_paths
    component.async_move_resource_to_block_cache = _without_download(component.async_move_resource_to_block_cache)


def _uploaded_paths(payload: ImageData | ListFiles | None) -> str | list[str] | None:
    if isinstance(payload, ListFiles):
        return [_uploaded_path(each) for each in payload]
    return None if payload is None else _uploaded_path(payload)


def _uploaded_path(payload: ImageData | FileData) -> str:
    """The path of an upload. A client may send any other path, and gets one answer, whatever is there."""
    try:
        path, folder = os.path.realpath(payload.path or ""), os.path.realpath(get_upload_folder())
        arrived = path.startswith(folder + os.sep) and stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        arrived = False
    if not arrived:
        raise gr.Error(NOT_ARRIVED, print_exception=False)
    return path


def _without_download(move: Callable) -> Callable:
    """gradio's mover of files, for paths alone: it would load a URL that a client sends."""

    async def moved(path: str | Path | None) -> str | None:
        if "://" in str(path):
            raise gr.Error(NOT_ARRIVED, print_exception=False)
        return await move(path)

    return moved
