"""Models to pass on: folders, checkpoints that know their config and names, a Hub on this machine."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from usg_psg import SceneGraphPredictor
from usg_psg.config import build_cfg
from usg_psg.model_folder import CARD, CONFIG, VOCABULARY, WEIGHTS, find_model, model_config, push_folder
from usg_psg.modeling import openclip
from usg_psg.vocabulary import Vocabulary
from usg_psg_cli import main

from .checkpoints import save_checkpoint
from .programs import exit_status, run

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
SMALL = ["MODEL.DEVICE", "cpu", "TEST.USG.OBJECT_THRESHOLD", "0.0"]
THEIR_PART = "MODEL: {USG: {RELATION_HEAD: {NAME: TheirHead}}}\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of a run in tmp/run, whose data set is gone; weights are random."""
    return save_checkpoint(tmp_path_factory.mktemp("model"), SMALL)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return SceneGraphPredictor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def saved(predictor, tmp_path_factory):
    results = {
        "dataset": "some_test",
        "metrics": {"single/R@50": 12.5, "oracle/objects": 1.0},
        "panoptic": {"PQ": 33.25},
    }
    return predictor.save_pretrained(tmp_path_factory.mktemp("saved") / "model", results=results)


def without_text_tower(monkeypatch):
    def refuse(*_):
        raise AssertionError("a text tower was asked for")

    monkeypatch.setattr("usg_psg.modeling.text_embeddings.load_openclip", refuse)
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")


def test_a_checkpoint_is_enough(checkpoint, predictor, monkeypatch):
    without_text_tower(monkeypatch)
    monkeypatch.setenv("USG_PSG_CACHE", "/nowhere")
    again = SceneGraphPredictor.from_pretrained(checkpoint.parent)  # by its folder's last_checkpoint
    assert again(IMAGE).to_json() == predictor(IMAGE).to_json()
    assert again.vocabulary.names == predictor.vocabulary.names
    assert again.cfg.MODEL.USG.HIDDEN_DIM == build_cfg("quickstart/usg_par_quickstart.yaml").MODEL.USG.HIDDEN_DIM


def test_a_folder_is_enough(saved, predictor, monkeypatch):
    without_text_tower(monkeypatch)
    assert sorted(path.name for path in saved.iterdir()) == sorted([CARD, CONFIG, VOCABULARY, WEIGHTS])
    again = SceneGraphPredictor.from_pretrained(saved)
    assert again(IMAGE).to_json() == predictor(IMAGE).to_json()
    assert again.trained_on == predictor.trained_on
    assert again.save_pretrained(saved.parent / "again") != saved
    for name in (CONFIG, VOCABULARY, WEIGHTS):
        assert (saved.parent / "again" / name).read_bytes() == (saved / name).read_bytes(), name


def test_other_names_and_back(saved, predictor):
    again = SceneGraphPredictor.from_pretrained(saved)
    before = again(IMAGE).to_json()
    again.set_vocabulary(Vocabulary(("dragon",), ("lava",), ("on",)))
    assert {o.name for o in again(IMAGE).objects} <= {"dragon", "lava"}
    again.set_vocabulary(Vocabulary.from_names(predictor.vocabulary.names))
    assert again(IMAGE).to_json() == before


def test_no_path_of_this_machine_is_passed_on(saved):
    for name in (CARD, CONFIG):
        assert "/tmp" not in (saved / name).read_text() and "/root" not in (saved / name).read_text()


def test_the_card_has_results_and_what_it_was_trained_on(saved):
    text = (saved / CARD).read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["evaluation", "R@50", "PQ"] and rows[2:] == [
        ["single", "12.50", "–"],
        ["panoptic", "–", "33.25"],
    ]
    assert "oracle" not in text
    header, _, body = text.partition("\n---\n")
    assert "test data: some_test" in body and "some_test" in header and "psg_shapes_train" not in header
    assert "psg_shapes_train: generated drawings alone" in text


def frozen(checkpoint, monkeypatch, pretrained):
    """A predictor whose frozen backbone is of an OpenCLIP tag, or a file; the weights themselves are random."""
    load = openclip.load_openclip
    for room in ("openclip_convnext", "text_embeddings"):
        monkeypatch.setattr(f"usg_psg.modeling.{room}.load_openclip", lambda name, _="": load(name))
    monkeypatch.setattr(openclip.open_clip, "list_pretrained_tags_by_model", lambda _: ["a_tag"])
    content = torch.load(checkpoint, weights_only=True)
    path = checkpoint.with_name("frozen.pth")
    content["config"] = content["config"].replace("PRETRAINED: ''", f"PRETRAINED: {pretrained}")
    content["config"] = content["config"].replace("FREEZE: false", "FREEZE: true")
    torch.save(content, path)
    return SceneGraphPredictor.from_pretrained(path)


@pytest.mark.parametrize("with_backbone", [None, True])
def test_a_backbone_of_a_tag_stays_out_unless_it_is_asked_for(checkpoint, tmp_path, monkeypatch, with_backbone):
    made = frozen(checkpoint, monkeypatch, "a_tag")
    made.model.backbone.weights_identity = {"model": "usg_convnext_zepto", "weights": "a_tag"}
    made.save_pretrained(tmp_path, with_backbone=with_backbone)
    from usg_psg.utils.weights_file import weight_names

    assert any(name.startswith("backbone.") for name in weight_names(tmp_path / WEIGHTS)) == bool(with_backbone)
    if with_backbone:
        without_text_tower(monkeypatch)
        assert SceneGraphPredictor.from_pretrained(tmp_path)(IMAGE).to_json() == made(IMAGE).to_json()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / WEIGHTS).unlink(), f"is no folder of a model: it has no {WEIGHTS}"),
        (lambda folder: (folder / VOCABULARY).write_bytes(b"x"), f"{VOCABULARY}: cannot be read"),
        (lambda folder: (folder / CONFIG).write_text("MODEL: [1]"), "MODEL"),
        (lambda folder: (folder / CONFIG).write_text(f"IMPORTS: [os]\n{THEIR_PART}"), "--trust-imports, in Python"),
    ],
)
def test_broken_folders_are_named(saved, tmp_path, spoil, message):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        SceneGraphPredictor.from_pretrained(tmp_path)


def test_modules_of_data_sets_are_not_needed(checkpoint, predictor, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    own, content["config"] = content["config"], content["config"].replace("IMPORTS: []", "IMPORTS: [their_data]")
    assert content["config"] != own
    torch.save(content, tmp_path / "model_final.pth")
    other = SceneGraphPredictor.from_pretrained(tmp_path / "model_final.pth")
    assert other(IMAGE).to_json() == predictor(IMAGE).to_json() and other.cfg.IMPORTS == []


@pytest.mark.parametrize("source", ["nothing.pth", "/no/folder", "one"])
def test_what_is_not_there_is_named(source):
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        model_config(source)


def test_a_checkpoint_without_a_config_says_so(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    del content["config"]
    torch.save(content, tmp_path / "old.pth")
    with pytest.raises(ValueError, match=r"old\.pth.*holds no config"):
        SceneGraphPredictor.from_pretrained(tmp_path / "old.pth")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as takes a commit of small files and gives revisions of them."""

    revisions: dict[str, dict[str, bytes]]
    protocol_version = "HTTP/1.1"

    def answer(self, content: bytes | dict | list, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/me/model"):
            revision = path.split("/")[6] if path.count("/") > 5 else "main"
            sha = max(self.revisions, default="") if revision == "main" else revision
            if sha not in self.revisions:
                return self.answer({"error": "no such revision"}, 404, X_Error_Code="RevisionNotFound")
            if "/tree/" in path:
                sizes = {name: len(content) for name, content in self.revisions[sha].items()}
                return self.answer([{"type": "file", "path": n, "size": s, "oid": n} for n, s in sizes.items()])
            files = [{"rfilename": name} for name in self.revisions[sha]]
            return self.answer({"id": "me/model", "modelId": "me/model", "sha": sha, "siblings": files})
        if path.startswith("/me/model/resolve/"):
            sha, _, name = path.removeprefix("/me/model/resolve/").partition("/")
            sha = max(self.revisions) if sha == "main" else sha
            content = self.revisions[sha][name]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(content, ETag=etag, X_Repo_Commit=sha)
        return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815  http.server's name

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            return self.answer({"url": f"{constants.ENDPOINT}/me/model", "name": "me/model"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path.startswith("/api/models/me/model/preupload/"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if self.path.startswith("/api/models/me/model/commit/"):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
            sha = f"{len(self.revisions):040d}"
            self.revisions[sha] = {**self.revisions.get(max(self.revisions, default=""), {}), **files}
            return self.answer({"commitUrl": f"{constants.ENDPOINT}/me/model/commit/{sha}", "commitOid": sha})
        return self.answer({"error": "not here"}, 404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Address of a Hub on this machine, which huggingface_hub talks to; its revisions."""
    handler = type("OwnHub", (Hub,), {"revisions": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_HOME"):
        monkeypatch.setattr(constants, name, address, raising=False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", address, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield handler.revisions
    server.shutdown()
    server.server_close()


def test_to_the_hub_and_back(hub, predictor, saved, monkeypatch, tmp_path):
    here = {"cache_dir": tmp_path / "cache", "endpoint": constants.ENDPOINT}
    address = predictor.push_to_hub("me/model", token="hf_secret")
    assert address.startswith(constants.ENDPOINT)
    first = max(hub)
    assert sorted(hub[first]) == sorted([CARD, CONFIG, VOCABULARY, WEIGHTS])
    assert hub[first][WEIGHTS] == (saved / WEIGHTS).read_bytes()
    again = SceneGraphPredictor.from_pretrained("me/model", **here)
    assert again(IMAGE).to_json() == predictor(IMAGE).to_json()
    (saved / CARD).write_text((saved / CARD).read_text() + "\nMore.\n")
    push_folder(saved, "me/model", token="hf_secret")
    assert len(hub) == 2
    pinned = find_model("me/model", revision=first, **here)
    assert pinned.name == first and find_model("me/model", **here).name == max(hub)
    hub.clear()  # the network is gone
    offline = find_model("me/model", revision=first, local_files_only=True, cache_dir=tmp_path / "cache")
    assert offline == pinned


def test_what_the_hub_does_not_have_is_named(hub, tmp_path):
    with pytest.raises(ValueError, match="you/other: there is no such folder, and the Hub does not give it"):
        find_model("you/other", cache_dir=tmp_path, endpoint=constants.ENDPOINT)


def test_demo_needs_a_model_alone(saved, tmp_path):
    from PIL import Image

    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    done = run(
        "tools/demo.py", "--weights", saved, "--input", tmp_path / "a.png", "--output", tmp_path / "out",
        env={"DETECTRON2_DATASETS": "/nowhere"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a.json").is_file()


@pytest.mark.parametrize(
    "content, message", [("{broken", "not a complete JSON file"), ("[1]", "expected metrics by name, got list")]
)
def test_results_that_are_none_are_named(tmp_path, capsys, content, message):
    path = tmp_path / "results.json"
    path.write_text(content)
    words = ["push", "--weights", "nowhere.pth", "--output", str(tmp_path / "model"), "--results", str(path)]
    assert exit_status(main, words) != 0
    assert f"{path}: {message}" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
