"""The HTTP server: answers, refusals, batches, metrics; what a stop leaves unanswered, which is nothing."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from yacs.config import CfgNode

from usg_psg.data.uploads import Limits
from usg_psg.scene_graph import SceneGraph
from usg_psg.server import PATH, Server, Service, Settings, build_server
from usg_psg.utils.batcher import Batcher
from usg_psg.visualization.app_guard import Hosts
from usg_psg.vocabulary import Vocabulary

from .visualization.scenes import stripes

LOCAL = "http://127.0.0.1"
CFG = {"INPUT": {"FORMAT": "RGB"}, "MODEL": {"WEIGHTS": "/secret/model.pth"}, "TEST": {"EVAL_PERIOD": 0}}


class Predictor:
    """Answers with stripes, when `go` is set; the width of an image says how it fails."""

    own_vocabulary = Vocabulary(("person",), ("grass-merged",), ("standing on",))
    model = SimpleNamespace(device="cpu")
    cfg = CfgNode(CFG)

    def __init__(self) -> None:
        self.go, self.began, self.batches = threading.Event(), threading.Event(), []
        self.go.set()

    def prepare(self, image: np.ndarray) -> dict:
        return {"size": image.shape[:2]}

    def run(self, prepared: list[dict]) -> list[SceneGraph]:
        self.began.set()
        assert self.go.wait(60)
        self.batches.append(len(prepared))
        if any(each["size"][1] == 666 for each in prepared):
            raise type("OutOfMemoryError", (RuntimeError,), {})
        return [stripes(*each["size"]) for each in prepared]


def encoded(width: int = 80, height: int = 60, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    return file.getvalue()


def service_of(predictor, **settings) -> Service:
    limits = settings.pop("limits", Limits(megabytes=0.5, megapixels=0.1, seconds=30))
    return Service(lambda: predictor, Settings(limits, **settings))


@pytest.fixture
def predictor():
    return Predictor()


@pytest.fixture
def service(predictor):
    return service_of(predictor, max_batch=4, max_wait=0.05, queue=6)


@pytest.fixture
def client(service):
    with TestClient(build_server(service, Hosts("127.0.0.1")), base_url=LOCAL) as client:
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        yield client


def test_an_image_gives_its_graph(client):
    body = client.post(PATH, content=encoded())
    assert body.status_code == 200 and body.headers["content-type"] == "application/json"
    assert SceneGraph.from_json(body.text) == stripes(60, 80)
    form = client.post(PATH, files={"image": ("a.jpg", encoded(kind="JPEG"), "image/jpeg")})
    assert SceneGraph.from_json(form.text) == stripes(60, 80)


def test_a_request_says_which_relations_it_wants(client):
    whole = stripes(60, 80)
    for query, wanted in (("top_k=1", whole.top(1)), ("constrained=true", whole.constrained())):
        assert SceneGraph.from_json(client.post(f"{PATH}?{query}", content=encoded()).text) == wanted
    least = whole.relations[0].score
    shown = client.post(f"{PATH}?score_threshold={least}", content=encoded()).json()["relations"]
    assert len(shown) == len(whole.top(score_threshold=least).relations) < len(whole.relations)
    for query in ("top_k=-1", "top_k=x", "score_threshold=2", "constrained=7"):
        assert client.post(f"{PATH}?{query}", content=encoded()).status_code == 422


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "The upload is not an image"),
        (b"no image" * 20, 400, "The upload is not an image"),
        (encoded()[:60], 400, "not"),
        (encoded(kind="GIF"), 400, "GIF"),
        (encoded(400, 300), 400, "400 x 300 pixels; at most 0.1 million"),
        (bytes(600_000), 400, "0.6 MB; at most 0.5"),
        (bytes(1_600_000), 413, "maximum allowed size"),
        (encoded(666), 413, "not enough memory"),
    ],
)
def test_images_that_are_refused(client, content, status, message):
    answer = client.post(PATH, content=content)
    assert answer.status_code == status and message in answer.text and "BytesIO" not in answer.text
    assert client.post(PATH, content=encoded()).status_code == 200, "the next one is answered"


def test_requests_that_are_refused(client):
    assert client.post(PATH, files={"photo": encoded()}).status_code == 400
    broken = client.post(PATH, content=b"x", headers={"content-type": "multipart/form-data"})
    assert broken.status_code == 400
    assert client.post(PATH, content=iter([encoded()])).status_code == 411, "no length is said"
    assert client.post(PATH, content=encoded(), headers={"host": "evil.example"}).status_code == 403
    assert client.post(PATH, content=encoded(), headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get(PATH).status_code == 405


def test_one_image_spoils_no_other_of_its_batch(client, predictor):
    predictor.go.clear()
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(client.post, PATH, content=encoded())
        assert predictor.began.wait(30)
        others = [pool.submit(client.post, PATH, content=encoded(width)) for width in (80, 666, 90)]
        while "usg_psg_queue_length 3.0" not in client.get("/metrics").text:
            time.sleep(0.01)
        predictor.go.set()
        answers = [each.result(30) for each in (first, *others)]
    assert [answer.status_code for answer in answers] == [200, 200, 413, 200]
    assert [answer.json()["width"] for answer in answers if answer.status_code == 200] == [80, 80, 90]
    assert predictor.batches == [1, 3, 1, 1, 1]


def test_more_requests_than_the_queue_takes_are_told_to_come_again(client, predictor):
    predictor.go.clear()
    with ThreadPoolExecutor(6) as pool:
        taken = [pool.submit(client.post, PATH, content=encoded()) for _ in range(6)]
        while "usg_psg_requests_in_flight 6.0" not in client.get("/metrics").text:
            time.sleep(0.01)
        refused = client.post(PATH, content=encoded())
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1" and "too many" in refused.text
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        predictor.go.set()
        assert [each.result(30).status_code for each in taken] == [200] * 6
    assert sum(predictor.batches) == 6 and max(predictor.batches) > 1
    text = client.get("/metrics").text
    assert 'usg_psg_requests_total{status="200"} 6.0' in text and 'usg_psg_requests_total{status="503"} 1.0' in text
    assert "usg_psg_batch_images_sum 6.0" in text and "usg_psg_request_seconds_count 7.0" in text


def test_work_that_takes_too_long_is_given_up(predictor):
    service = service_of(predictor, limits=Limits(seconds=0.2), max_wait=0.001)
    with TestClient(build_server(service, Hosts("127.0.0.1")), base_url=LOCAL) as client:
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        predictor.go.clear()
        for _ in range(2):
            answer = client.post(PATH, content=encoded())
            assert answer.status_code == 504 and "more than 0.2 seconds" in answer.text
        predictor.go.set()
        service.settings.limits.__dict__["seconds"] = 30.0
        assert client.post(PATH, content=encoded()).status_code == 200
        assert predictor.batches == [1, 1], "the second one was never begun"


def test_the_model_describes_itself_without_folders(client):
    said = client.get("/model").json()
    assert said["weights"] == "model.pth" and said["thing_classes"] == ["person"]
    assert said["settings"]["max_batch"] == 4 and said["config"]["INPUT"] == {"FORMAT": "RGB"}
    assert "secret" not in json.dumps(said) and said["version"]


def test_openapi_describes_the_graph(client):
    document = client.get("/openapi.json").json()
    post = document["paths"][PATH]["post"]
    assert set(post["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert {"200", "400", "413", "503", "504"} <= set(post["responses"])
    reference = post["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(json.loads(stripes(60, 80).to_json()), {**document, **reference})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"format": "usg_psg scene graph", "objects": [{}]}, {**document, **reference})
    assert client.get("/docs").status_code == 200


def test_nothing_is_taken_before_the_model_is_there_nor_before_the_end():
    go = threading.Event()
    service = Service(lambda: go.wait(30) and Predictor(), Settings())
    with TestClient(build_server(service, Hosts("127.0.0.1")), base_url=LOCAL) as client:
        assert client.get("/health").status_code == 200 and client.get("/ready").status_code == 503
        refused = client.post(PATH, content=encoded())
        assert refused.status_code == 503 and "loading" in refused.text and client.get("/model").status_code == 503
        go.set()
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        service.draining = True
        refused = client.post(PATH, content=encoded())
        assert refused.status_code == 503 and "ending" in refused.text and client.get("/ready").status_code == 503


def test_a_model_that_cannot_be_loaded_ends_the_server():
    def load():
        raise FileNotFoundError("no weights")

    service = Service(load, Settings())
    asyncio.run(Server(service, port=0).serve())
    assert str(service.failure) == "no weights"


async def batches_of(arrivals: list[float], max_batch: int, max_wait: float) -> list[list[int]]:
    """Batches of items that are handed in at these seconds."""
    seen: list[list[int]] = []

    def work(items):
        seen.append(items)
        return [ValueError(item) if item < 0 else -item for item in items]

    batcher = Batcher(work, max_batch, max_wait)

    async def ask(number, delay):
        await asyncio.sleep(delay)
        return await batcher.result(number)

    task = asyncio.create_task(batcher.run())
    answers = await asyncio.gather(*(ask(n, delay) for n, delay in enumerate(arrivals)))
    assert answers == [-n for n in range(len(arrivals))], "each gets its own"
    with pytest.raises(ValueError, match="-5"):
        await batcher.result(-5)
    given_up = asyncio.create_task(batcher.result(7))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await batcher.result(8) == -8
    task.cancel()
    assert seen[-1] == [8]
    return seen[:-2]


def test_batches():
    assert asyncio.run(batches_of([0, 0, 0, 0], 2, 0.01)) == [[0, 1], [2, 3]]
    assert asyncio.run(batches_of([0, 0, 0.3], 8, 0.01)) == [[0, 1], [2]], "nobody waits long for others"


@pytest.fixture
def running(predictor):
    """A server on a free port in a thread, and its address."""
    service = service_of(predictor, max_batch=4, max_wait=0.001)
    server = Server(service, port=0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not (server.started and service.ready):
        time.sleep(0.01)
    yield server, f"{LOCAL}:{server.servers[0].sockets[0].getsockname()[1]}"
    predictor.go.set()
    service.draining = True
    thread.join(30)
    assert not thread.is_alive()


def test_a_stop_loses_no_answer(running, predictor):
    """What was taken is answered, a request that comes meanwhile is told to come again, then the server ends."""
    server, url = running
    predictor.go.clear()
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(httpx.post, url + PATH, content=encoded(), timeout=60) for _ in range(6)]
        while server.service.in_flight < 6:
            time.sleep(0.01)
        server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.3)  # the server looks ten times a second whether it may end
        late = httpx.post(url + PATH, content=encoded())
        assert late.status_code == 503 and late.headers["retry-after"] == "1"
        assert httpx.get(url + "/ready").status_code == 503
        predictor.go.set()
        assert [each.result(60).status_code for each in asked] == [200] * 6
    end = time.monotonic() + 10
    while server.started and time.monotonic() < end:
        try:
            httpx.get(url + "/health")
        except httpx.ConnectError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the server still listens")
