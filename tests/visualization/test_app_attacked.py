"""The app attacked over HTTP, on the loopback address: files that are not the visitor's, foreign hosts, too much."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from usg_psg.data.uploads import Limits
from usg_psg.scene_graph import SceneGraph, SceneRelation
from usg_psg.vocabulary import Vocabulary

from .scenes import stripes

pytest.importorskip("gradio", reason="the app is an extra")
from usg_psg.visualization.app import NOT_ARRIVED, BadInputError, Session, build_app, launch_app
from usg_psg.visualization.app_guard import Hosts

LIMITS = Limits(megabytes=0.5, megapixels=0.1, seconds=60)
PATIENCE = 120  # seconds


class Predictor:
    """Answers with stripes of the names that it was given, when `go` is set."""

    own_vocabulary = Vocabulary(("person",), ("grass-merged",), ("standing on",))

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def __call__(self, image: np.ndarray):
        self.go.wait(PATIENCE)
        graph, own = stripes(*image.shape[:2]), self.vocabulary
        names, predicate = [*own.stuff_classes, *own.thing_classes][:2], own.predicate_classes[0]
        objects = [replace(thing, name=name, label="") for thing, name in zip(graph.objects, names, strict=False)]
        relations = [SceneRelation(0, 1, predicate, 0, 0.5), SceneRelation(1, 0, predicate, 0, 0.4)]
        return SceneGraph(graph.height, graph.width, objects, relations)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(host, port) of an app, and its upload folder."""
    with pytest.MonkeyPatch.context() as patch:
        uploads = tmp_path_factory.mktemp("uploads")
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        app = build_app({"a": Predictor()}, LIMITS)
        _, url, _ = launch_app(app, LIMITS, port=None, prevent_thread_lock=True, quiet=True)
        try:
            yield urlsplit(url).netloc, uploads
        finally:
            app.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """An image of this machine that no visitor sent."""
    path = tmp_path_factory.mktemp("private") / "secret.png"
    Image.new("RGB", (64, 48), (250, 10, 10)).save(path)
    return path


def ask(netloc: str, method: str, path: str, body: bytes | None = None, **headers: str):
    """Status, headers and text of an answer; `Host` may be given."""
    connection = http.client.HTTPConnection(netloc, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def parse(netloc: str, payload: dict | None, top_k: object = 5, given: list[dict] | None = None) -> str:
    """What the app's API says of a payload: its last event."""
    body = json.dumps({"data": [payload, "a", top_k, 0.0, "", "", given]}).encode()
    status, _, text = ask(netloc, "POST", "/gradio_api/call/parse", body, Content_Type="application/json")
    if status != 200:
        return text
    return ask(netloc, "GET", f"/gradio_api/call/parse/{json.loads(text)['event_id']}")[2]


def upload(netloc: str, name: str, content: bytes):
    """Status and text of an upload."""
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body += content + b"\r\n--x--\r\n"
    answer = ask(netloc, "POST", "/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=x")
    return answer[0], answer[2]


def test_an_upload_is_answered(server, image):
    netloc, _ = server
    status, text = upload(netloc, "mine.png", image.read_bytes())
    assert status == 200
    payload = {"path": json.loads(text)[0]}
    for more in ({}, {"meta": {"_type": "gradio.FileData"}}):
        answer = parse(netloc, payload | more)
        assert "event: complete" in answer and "2 objects and 2 relations found, 2 relations shown" in answer
    assert "1 relation shown" in parse(netloc, payload, top_k=1)
    assert "event: error" in parse(netloc, payload, top_k="many")


def test_files_that_nobody_uploaded_are_all_answered_alike(server, image, tmp_path):
    """A foreign image, a link to it, none, a folder, a pipe, which would be waited for: nothing tells them apart."""
    netloc, uploads = server
    os.mkfifo(tmp_path / "pipe")
    os.symlink(image, uploads / "link.png")
    os.mkfifo(uploads / "pipe")
    outside = [image, tmp_path / "absent.png", tmp_path, tmp_path / "pipe", "/etc/passwd", "/dev/zero"]
    inside = [uploads, uploads / "link.png", uploads / "pipe", uploads / "absent.png", f"{uploads}/../{uploads.name}x"]
    climbing = [f"{uploads}/{os.path.relpath(image, uploads)}", f"{uploads}x/a.png", "secret.png", "a\0b", ""]
    answers = {parse(netloc, {"path": str(path)}) for path in (*outside, *inside, *climbing)}
    (answer,) = answers
    assert NOT_ARRIVED in answer and "secret" not in answer
    mine = {"path": json.loads(upload(netloc, "mine.png", image.read_bytes())[1])[0]}
    own = [uploads, uploads / "pipe", uploads / "absent.png"]
    for paths in ([*outside, uploads / "link.png"], own):
        files = [{"path": str(path), "meta": {"_type": "gradio.FileData"}} for path in paths]
        (answer,) = {parse(netloc, mine, given=[file]) for file in files}
        assert "event: error" in answer and "secret" not in answer
    for path in (*outside, *climbing[:1]):
        answer = parse(netloc, {"path": str(path), "meta": {"_type": "gradio.FileData"}})
        assert "event: error" in answer and "MB" not in answer
    for path in (image, "/etc/passwd", tmp_path / "absent.png"):
        assert ask(netloc, "GET", f"/gradio_api/file={path}")[0] in (403, 404)


def test_the_app_asks_no_other_server(server, monkeypatch):
    netloc, _ = server
    asked = []

    async def download(url, *arguments, **more):
        asked.append(url)
        raise OSError

    for name in ("async_ssrf_protected_download", "save_url_to_cache", "ssrf_protected_download"):
        monkeypatch.setattr(f"gradio.processing_utils.{name}", download, raising=False)
    for url in ("http://127.0.0.1:9/a.png", "https://example.org/a.png"):
        for payload in ({"path": url}, {"url": url}, {"path": url, "url": url}):
            for more in ({}, {"meta": {"_type": "gradio.FileData"}}):
                assert "event: error" in parse(netloc, payload | more)
        assert ask(netloc, "GET", f"/gradio_api/file={url}")[0] == 403
        assert ask(netloc, "GET", f"/gradio_api/proxy={url}")[0] == 403
    assert asked == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "192.0.2.1", "", "["]
)
def test_foreign_names_are_not_served(server, host):
    """A page whose name points at this machine (DNS rebinding) would be of one origin with the app."""
    netloc, _ = server
    host = host.format(port=netloc.partition(":")[2])
    for path in ("/", "/config", "/gradio_api/info"):
        status, headers, text = ask(netloc, "GET", path, Host=host, Origin=f"http://{host}")
        assert status == 403 or (status == 400 and not host), "the server itself refuses an empty one"
        assert not [name for name in headers if name.lower().startswith("access-control")] and "gradio" not in text


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://{netloc}.evil.example"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_pages_of_other_sites_get_nothing(server, method, origin):
    netloc, _ = server
    more = {"Origin": origin.format(netloc=netloc), "Access_Control_Request_Method": "POST", "Cookie": "a=b"}
    status, headers, _ = ask(netloc, method, "/gradio_api/call/parse", b"{}" if method == "POST" else None, **more)
    assert status == 403 and not [name for name in headers if name.lower().startswith("access-control")]


def test_its_own_pages_are_answered(server):
    netloc, _ = server
    port = netloc.partition(":")[2]
    for host in (netloc, f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert ask(netloc, "GET", "/config", Host=host, Origin=f"http://{host}")[0] == 200
        assert ask(netloc, "GET", "/config", Host=host)[0] == 200


def test_names_of_the_app():
    local = Hosts("127.0.0.1", ["Lab.example"])
    assert local.is_host("lab.example:80") and local.is_origin("https://lab.example", "127.0.0.1:7860")
    assert not local.is_host("192.0.2.1") and not local.is_host("")
    assert Hosts("192.0.2.1").is_host("192.0.2.1:7860") and not Hosts("192.0.2.1").is_host("192.0.2.2")
    everywhere = Hosts("0.0.0.0")
    assert everywhere.is_host("192.0.2.1:7860") and everywhere.is_host("[2001:db8::1]:7860")
    assert not everywhere.is_host("evil.example:7860")


def test_what_is_too_large_is_not_taken_in(server):
    netloc, uploads = server
    before = sum(len(files) for *_, files in os.walk(uploads))
    status, text = upload(netloc, "large.png", bytes(600_000))
    assert status == 413 and "maximum allowed size" in text
    for path, length in (("upload", "1600000"), ("call/parse", "1100000"), ("call/parse", "9" * 30), ("upload", "-1")):
        assert ask(netloc, "POST", f"/gradio_api/{path}", Content_Length=length)[0] in (400, 413)
    assert ask(netloc, "POST", "/gradio_api/upload", Transfer_Encoding="chunked")[0] == 411
    assert sum(len(files) for *_, files in os.walk(uploads)) == before


def test_thirty_at_once(server, image):
    """Each gets an answer: its scene graph, or that too many wait; and the page is served meanwhile."""
    netloc, _ = server
    path = json.loads(upload(netloc, "mine.png", image.read_bytes())[1])[0]
    with ThreadPoolExecutor(31) as visitors:
        asked = [visitors.submit(parse, netloc, {"path": path}) for _ in range(30)]
        assert ask(netloc, "GET", "/")[0] == 200
        answers = [each.result(PATIENCE) for each in asked]
    served = sum("2 relations shown" in answer for answer in answers)
    assert served >= 20 and all("shown" in answer or "ueue" in answer for answer in answers)
    assert "2 relations shown" in parse(netloc, {"path": path})


def test_work_that_takes_too_long_is_given_up(image):
    predictor = Predictor()
    session = Session({"a": predictor}, Limits(seconds=0.2))
    predictor.go.clear()
    for _ in range(2):  # the second one waits for the first, which cannot be stopped
        with pytest.raises(BadInputError, match="more than 0.2 seconds"):
            session.parse(str(image), "a", 5, 0.0, "", "")
    predictor.go.set()
    session.limits = Limits(seconds=PATIENCE)
    assert "2 relations shown" in session.parse(str(image), "a", 5, 0.0, "", "")[4]
    for _ in range(100):
        if session.count == 2:
            break
        time.sleep(0.02)
    assert session.count == 2, "the first, late, and the last; the second one was never begun"


def test_hostile_names_stay_text(server, image, new_page, tmp_path):
    """Names come from anybody: from a vocabulary file, a checkpoint's data set, a visitor, a file."""
    netloc, _ = server
    names = ["</script><script>window.broken = 1</script>", "<img src=x onerror='window.broken = 1'>"]
    names += ["${window.broken = 1} {{7*7}}", "[x](javascript:alert(1))", "<b>bold</b> $x^2$ **strong**"]
    path = tmp_path / "<img src=x onerror='window.broken = 1'>.png"
    path.write_bytes(image.read_bytes())
    page = new_page(viewport={"width": 1400, "height": 1200})
    page.set_default_timeout(60_000)
    page.goto(f"http://{netloc}/")
    page.get_by_text("Vocabulary").click()
    page.locator("#image input[type=file]").first.set_input_files(path)
    page.locator("#image img").first.wait_for()
    for name in names:
        page.locator("#objects textarea").fill(f"first {name}\nsecond {name}")
        page.locator("#predicates textarea").fill(f"sees {name}")
        page.get_by_role("button", name="Find the scene graph").click()
        page.locator("#relations [role=gridcell]").get_by_text(f"sees {name}").first.wait_for()
        cells = page.locator("#relations [role=gridcell]").all_inner_texts()
        assert {f"first {name}", f"second {name}"} <= {text.strip() for text in cells}
    page.locator("#objects textarea").fill(f"{names[0]} {'x' * 80}")
    page.get_by_role("button", name="Find the scene graph").click()
    page.locator("#status").get_by_text("letters").wait_for()
    path.write_bytes(b"no image")
    page.reload()
    page.locator("#image input[type=file]").first.set_input_files(path)
    page.locator("#image img").first.wait_for()
    page.get_by_role("button", name="Find the scene graph").click()
    page.locator("#status").get_by_text("is not an image").wait_for()
    assert page.locator("#status b, #status strong, #status img, #relations img, #relations script").count() == 0
    assert page.evaluate("window.broken") is None
    if folder := os.environ.get("USG_PSG_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/app_hostile.png")
    page.close()
