"""The web page: what it refuses, and a visit in headless Chromium."""

from __future__ import annotations

import copy
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.data.uploads import Limits, check_upload
from usg_psg.engine import USGCheckpointer
from usg_psg.images import read_image
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.scene_graph import SceneGraph
from usg_psg.vocabulary import Vocabulary

from ..programs import exit_status, run, start

pytest.importorskip("gradio", reason="the app is an extra")
from usg_psg.visualization.app import BadInputError, Session, build_app, launch_app, read_names

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(megabytes=0.5, megapixels=0.1, names=5)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", num_train=1, num_val=1, size=(96, 128), preset="easy", seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        opts = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", str(root)]
        opts += ["TEST.USG.OBJECT_THRESHOLD", "0.0", "TEST.USG.OVERLAP_THRESHOLD", "0.0"]
        torch.manual_seed(3)  # finds many objects
        predictor = SceneGraphPredictor(build_cfg("quickstart/usg_par_quickstart.yaml", opts), allow_random=True)
        # Fresh masks hardly differ, so one would own every pixel and nothing would be related.
        with torch.no_grad():
            predictor.model.mask_decoder.mask_embed.layers[-1].weight.mul_(40)
        yield predictor


@pytest.fixture
def session(predictor):
    return Session({"a": predictor}, LIMITS)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Uploads by name: good, turned, text, cut, many (pixels), big (bytes), gif."""
    folder = tmp_path_factory.mktemp("uploads")
    rng = np.random.default_rng(0)
    paths = {name: str(folder / f"{name}.jpg") for name in ("good", "turned", "text", "cut", "many", "big")}
    image = Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
    image.save(paths["good"], quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    image.save(paths["turned"], exif=exif)
    Path(paths["text"]).write_text("not an image\n" * 20)
    Path(paths["cut"]).write_bytes(Path(paths["good"]).read_bytes()[:2000])
    Image.new("RGB", (400, 300)).save(paths["many"])
    Path(paths["big"]).write_bytes(Path(paths["good"]).read_bytes() + bytes(600_000))
    paths["gif"] = str(folder / "moving.gif")
    image.save(paths["gif"])
    return paths


def parse(session, path, **changes):
    return session.parse(
        **{"path": path, "model": "a", "top_k": 5, "threshold": 0.0, "objects": "", "predicates": ""} | changes
    )


def test_a_good_image_gives_everything(session, files):
    overlay, graph, rows, file, text = parse(session, files["good"])
    assert overlay.shape[1] * 96 == overlay.shape[0] * 128 and overlay.dtype == graph.dtype == np.uint8
    whole = SceneGraph.from_json(Path(file).read_text())
    assert (whole.height, whole.width) == (96, 128)
    best = whole.constrained().relations[:5]
    labels = [o.label for o in whole.objects]
    assert rows == [
        [n, labels[r.subject], r.predicate, labels[r.object], round(r.score, 3)] for n, r in enumerate(best, start=1)
    ]
    assert len(rows) == 5 and "5 relations shown" in text
    assert parse(session, files["good"], threshold=1.0)[2] == []


def test_the_chosen_model_answers(predictor, files):
    other = copy.deepcopy(predictor)
    with torch.no_grad():
        other.model.mask_decoder.mask_embed.layers[-1].weight.mul_(-1)
    session = Session({"a": predictor, "b": other}, LIMITS)
    found = {model: Path(parse(session, files["good"], model=model)[3]).read_text() for model in ("a", "b")}
    assert found["a"] != found["b"]
    image = read_image(files["good"], "RGB")
    assert found == {"a": predictor(image).to_json(), "b": other(image).to_json()}


def test_visitors_at_once_get_their_own_names(session, files):
    asked = [[f"thing {visitor}{n}" for n in range(3)] for visitor in "xyz"] * 3
    with ThreadPoolExecutor(len(asked)) as visitors:
        answers = visitors.map(lambda names: parse(session, files["good"], objects="\n".join(names))[3], asked)
        for names, file in zip(asked, answers, strict=True):
            objects = SceneGraph.from_json(Path(file).read_text()).objects
            assert objects and {each.name for each in objects} <= set(names)


def test_the_orientation_note_of_cameras_is_followed(session, files):
    whole = SceneGraph.from_json(Path(parse(session, files["turned"])[3]).read_text())
    assert (whole.height, whole.width) == (128, 96)


@pytest.mark.parametrize(
    "name, message",
    [
        ("text", "text.jpg is not an image"),
        ("cut", "cut.jpg: not a readable image"),
        ("many", "400 x 300 pixels"),
        ("big", "0.6 MB"),
        ("gif", "GIF"),
    ],
)
def test_bad_uploads_are_refused(session, files, name, message):
    with pytest.raises(BadInputError, match=message) as caught:
        parse(session, files[name])
    assert str(Path(files[name]).parent) not in str(caught.value), "the server's folders are nobody's business"


def test_size_is_checked_before_pixels_are_decoded(tmp_path):
    """A PNG whose header promises 10^10 pixels and that has none of them."""
    Image.new("L", (8, 8)).save(tmp_path / "bomb.png")
    data = bytearray((tmp_path / "bomb.png").read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(ValueError, match="too many pixels"):
        check_upload(str(tmp_path / "bomb.png"), Limits())
    with pytest.raises(BadInputError, match="Choose an image"):
        parse(Session({}, LIMITS), None)


def test_another_vocabulary(session, predictor, files):
    own = predictor.own_vocabulary
    stuff, predicates = own.stuff_classes, own.predicate_classes
    objects = f"teapot\n  {stuff[0]} \nteapot\n\nbroom"
    whole = SceneGraph.from_json(Path(parse(session, files["good"], objects=objects, predicates="eats")[3]).read_text())
    assert predictor.vocabulary == Vocabulary(("teapot", "broom"), (stuff[0],), ("eats",))
    assert {o.name for o in whole.objects} <= {"teapot", "broom", stuff[0]}
    assert {r.predicate for r in whole.relations} == {"eats"}
    assert all(o.isthing == (o.name != stuff[0]) for o in whole.objects)
    parse(session, files["good"])
    assert predictor.vocabulary == predictor.own_vocabulary, "the next visitor gets the model's own names"
    assert session.own_names("a")[1].splitlines() == list(predicates)


@pytest.fixture(scope="module")
def brought(predictor, files, tmp_path_factory) -> tuple[SceneGraph, str]:
    """A scene graph of the good image with two objects, and its file."""
    masks = np.zeros((2, 96, 128), bool)
    masks[0, :40], masks[1, 30:, 20:] = True, True
    graph = predictor(read_image(files["good"]), masks, predictor.own_vocabulary.object_classes[:2])
    path = tmp_path_factory.mktemp("brought") / "graph.json"
    path.write_text(graph.to_json())
    return graph, str(path)


def test_relations_of_objects_that_are_brought(session, files, brought):
    graph, path = brought
    *_, rows, file, text = parse(session, files["good"], given=[path])
    assert SceneGraph.from_json(Path(file).read_text()) == graph
    assert len(rows) == 2 and text.startswith("2 objects given, 2 relations found")


def test_objects_that_do_not_fit_are_named(session, files, brought, tmp_path, monkeypatch):
    _, path = brought
    for image, change, message in (
        ("turned", {}, r"masks: expected height and width \(128, 96\), got \(96, 128\)"),
        ("good", {"objects": "teapot"}, r"labels\[0\]: '.*' is not in the vocabulary"),
        ("good", {"given": [path, files["text"]]}, "Masks and labels: expected one JSON file, .* graph.json, text.jpg"),
    ):
        with pytest.raises(BadInputError, match=message):
            parse(session, files[image], **{"given": [path], **change})
    (tmp_path / "graph.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"^Masks and labels: graph\.json: expected this project's JSON"):
        parse(session, files["good"], given=[str(tmp_path / "graph.json")])
    Image.new("RGB", (400, 300)).save(tmp_path / "a.png")
    with pytest.raises(BadInputError, match="400 x 300 pixels"):
        parse(session, files["good"], given=[path, str(tmp_path / "a.png")])
    monkeypatch.setattr("usg_psg.visualization.app.MASK_PIXELS", 96 * 128)
    with pytest.raises(BadInputError, match="2 objects; at most 1 are taken in an image this large"):
        parse(session, files["good"], given=[path])


def test_names():
    assert read_names(" a \n\nb\na", "object", LIMITS) == ["a", "b"]
    with pytest.raises(ValueError, match="6 object names"):
        read_names("\n".join("abcdef"), "object", LIMITS)
    with pytest.raises(ValueError, match="81 letters"):
        read_names("x" * 81, "object", LIMITS)


def test_few_files_are_kept(session, files):
    graph = SceneGraph(4, 4, [], [])
    written = [session._write(graph) for _ in range(40)]
    assert [os.path.exists(path) for path in written] == [False] * 8 + [True] * 32


def test_an_app_needs_a_model():
    with pytest.raises(ValueError, match="at least one model"):
        build_app({})


BASE = ["app.py", "--config-file", "quickstart/usg_par_quickstart.yaml", "--weights", "missing.pth"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--port", "0"], "there is no file missing.pth"),
        (["--port", "{busy}"], "port {busy}"),
        (["--port", "99999"], "argument --port: expected 0 to 65535, got 99999"),
        (["--host", "256.0.0.1"], "256.0.0.1"),
        (["--max-megabytes", "nan"], "argument --max-megabytes: expected more than 0, got nan"),
        (["--port", "0", "--config-file", "a.yaml", "b.yaml"], "got 2"),
    ],
)
def test_the_program_says_what_is_wrong(arguments, message, monkeypatch, capsys):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        monkeypatch.setattr(sys, "argv", [*BASE, *(a.format(busy=port) for a in arguments)])
        main = runpy.run_path(str(ROOT / "tools" / "app.py"))["main"]
        status = exit_status(main)
    assert status == 2 and message.format(busy=port) in capsys.readouterr().err


def test_without_gradio_the_program_says_how_to_get_it():
    code = f"import runpy, sys; sys.modules['gradio'] = None; sys.path.insert(0, 'tools'); sys.argv = {BASE!r}; "
    code += "runpy.run_path('tools/app.py', run_name='__main__')"
    done = run("-c", code)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].endswith("pip install -e '.[app]' in this repository")
    assert "Traceback" not in done.stderr and "usage" not in done.stderr


def test_the_program_serves_on_this_machine_alone_until_ctrl_c(predictor, tmp_path):
    USGCheckpointer(predictor.model, str(tmp_path)).save("model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = [*BASE[1:-1], str(tmp_path / "model.pth"), "--port", port, "--opts", "MODEL.DEVICE", "cpu"]
    process = start("tools/app.py", *arguments, stderr=subprocess.STDOUT)
    try:
        written = []
        for line in process.stdout:  # ends with the program, so a program that fails is not waited for
            written.append(line)
            if "the app runs at" in line:
                break
        assert f"http://127.0.0.1:{port}" in "".join(written[-1:]), "".join(written)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert answer.status == 200 and b"Scene graphs" in answer.read()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in rest, rest


@pytest.fixture(scope="module")
def page(predictor, new_page):
    """A page of the app in headless Chromium; nothing may be asked of another machine."""
    app = build_app({"first.pth": predictor, "second.pth": predictor}, LIMITS)
    _, url, _ = launch_app(app, LIMITS, port=None, prevent_thread_lock=True, quiet=True)
    try:
        page = new_page(viewport={"width": 1400, "height": 1500})
        requests = []
        page.on("request", lambda sent: requests.append(sent.url))
        page.goto(url)
        yield page
        page.close()
        assert [sent for sent in requests if not sent.startswith((url, "data:", "blob:"))] == []
    finally:
        app.close()


def upload(page, path: str) -> None:
    page.reload()
    page.locator("#image input[type=file]").first.set_input_files(path)


def send(page) -> None:
    page.locator("#image img").first.wait_for()
    page.locator("#threshold input[type=number]").fill("0")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Find the scene graph").click()


def column(page, number: int) -> list[str]:
    """Texts of a column of the table, counted from 1."""
    cells = page.locator(f"#relations [role=gridcell][aria-colindex='{number}']")
    return [text.strip() for text in cells.all_inner_texts()]


def test_visit_with_a_good_image(page, files):
    upload(page, files["good"])
    assert page.get_by_label("Capture from camera").count() == 1
    send(page)
    for name in ("overlay", "graph"):
        image = page.locator(f"#{name} img")
        image.wait_for()
        page.wait_for_function("image => image.naturalWidth > 400", arg=image.element_handle())
        top = image.bounding_box()["y"]
        covers = page.locator(f"#{name} button:not(:has(img)), #{name} [data-testid=block-label]")
        boxes = [box for box in (cover.bounding_box() for cover in covers.all()) if box]
        assert len(boxes) >= 3 and all(box["y"] + box["height"] <= top + 1 for box in boxes), "they hide names"
    page.get_by_text("10 relations shown").wait_for()
    page.locator("#relations [role=grid][aria-rowcount='11']").wait_for()  # with the head
    assert len(column(page, 3)) == 10 and column(page, 1) == [str(n) for n in range(1, 11)]
    with page.expect_download() as download:
        page.locator("#json").click()
    whole = json.loads(Path(download.value.path()).read_text())
    assert whole["format"] == "usg_psg scene graph" and len(whole["relations"]) >= 10
    if folder := os.environ.get("USG_PSG_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/app.png", full_page=True)


def test_visit_with_own_objects(page, files, brought):
    upload(page, files["good"])
    page.get_by_text("Masks and labels").click()
    page.locator("#given input[type=file]").set_input_files(brought[1])
    page.locator("#given").get_by_text("graph").first.wait_for()
    send(page)
    page.get_by_text("2 objects given, 2 relations found").wait_for()


def test_a_tall_image_leaves_the_results_in_sight(page, tmp_path):
    Image.new("RGB", (20, 3000), (90, 120, 200)).save(tmp_path / "tall.png")
    upload(page, str(tmp_path / "tall.png"))
    send(page)
    for name, most in (("image", 750), ("overlay", 1275)):  # of 1500 pixels
        image = page.locator(f"#{name} img").first
        image.wait_for()
        page.wait_for_function("image => image.naturalHeight > 1000", arg=image.element_handle())
        assert 0 < image.bounding_box()["height"] <= most


@pytest.mark.parametrize("name, message", [("text", "text.jpg is not an image"), ("many", "400 x 300 pixels")])
def test_visit_with_a_bad_file(page, files, name, message):
    upload(page, files[name])
    send(page)
    page.locator("#status").get_by_text(message).wait_for()
    assert page.get_by_text(message).count() == 2, "in its place and as a note that passes"
    assert page.locator("#json").is_disabled() and page.locator("#overlay img").count() == 0
    if folder := os.environ.get("USG_PSG_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/app_{name}.png")
    upload(page, files["good"])
    send(page)
    page.get_by_text("10 relations shown").wait_for()


def test_visit_with_a_file_that_is_too_large(page, files):
    upload(page, files["big"])
    page.get_by_text("maximum allowed size").first.wait_for()


def test_visit_with_own_names(page, files):
    upload(page, files["good"])
    page.get_by_text("Vocabulary").click()
    page.locator("#predicates textarea").fill("eats\nadmires")
    send(page)
    page.get_by_text("relations shown").wait_for()
    page.locator("#relations [role=gridcell]").first.wait_for()
    cells = set(column(page, 3))
    assert cells and cells <= {"eats", "admires"}
