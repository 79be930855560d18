"""`usg-psg data download` from a server on the loopback: everything, interrupted in the middle, again."""

import json
import os
import signal
import threading
import time

import huggingface_hub
import pytest

from usg_psg.cli import download
from usg_psg_cli import main

from ..data.sources.hosts import COMMIT, REPOSITORY, coco_archives, hub_files, psg_content, serving


@pytest.fixture
def host(monkeypatch, tmp_path):
    """COCO and the Hub, with toy archives, whose checksums are not the real ones'."""
    monkeypatch.setattr(download, "ARCHIVES", {name: (path, "") for name, (path, _) in download.ARCHIVES.items()})
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    content, pictures = psg_content()
    with serving(coco_archives(content, pictures)) as host:
        host.content, host.pictures = content, pictures
        host.put_hub(hub_files(content, pictures))
        yield host


def run(host, folder, *options):
    hub = "--hub", REPOSITORY, "--hub-url", host.url
    return main(["data", "download", "--output", str(folder), "--coco-url", host.url, *hub, *options])


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetched(host):
    return [
        request for request in host.requests if request.startswith(("GET /zips", "GET /annotations", "GET /datasets"))
    ]


def test_everything(host, tmp_path, capsys):
    assert run(host, tmp_path / "data") == 0
    coco = files(tmp_path / "data" / "coco")
    assert {name: coco[name] for name in coco if not name.startswith("annotations/")} == host.pictures
    psg_json = tmp_path / "data" / "psg" / "psg.json"
    content = json.loads(psg_json.read_text())
    # The Hub's files are train, val, test; the toy data's order is the same.
    assert content == host.content
    report = json.loads((tmp_path / "data" / "psg" / "psg.report.json").read_text())
    assert report["counts"]["images"] == {"matched": 6, "ambiguous": 0, "incomplete": 0, "missing": 0, "repeated": 0}
    assert report["source"] == f"{REPOSITORY}@{COMMIT}" and len(report["images"]["matched"]) == 6
    assert "6 matched" in capsys.readouterr().out
    root = str(tmp_path / "data" / "coco")
    assert main(["data", "check", "--json", str(psg_json), "--image-root", root, "--psg-names", "--workers", "1"]) == 0


def test_again_without_archives(host, tmp_path, capsys):
    assert run(host, tmp_path) == 0
    before = files(tmp_path)
    for path in (tmp_path / "archives").glob("*.zip"):
        path.unlink()
    host.requests.clear()
    assert run(host, tmp_path) == 0 and "psg.json is there and stays" in capsys.readouterr().out
    assert not host.requests and files(tmp_path / "coco") == {
        name.removeprefix("coco/"): content for name, content in before.items() if name.startswith("coco/")
    }


def test_all_and_none(host, tmp_path):
    assert run(host, tmp_path, "--images", "none") == 0
    here = set(files(tmp_path / "coco"))
    assert not [name for name in here if name.endswith(".jpg")] and len(here) == 2 + 6
    assert run(host, tmp_path, "--images", "all") == 0
    assert len(set(files(tmp_path / "coco")) - here) == 6 + 2 + 2


def test_dry_run(host, tmp_path, capsys):
    assert run(host, tmp_path / "data", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "train2017.zip" in printed and REPOSITORY in printed
    assert not (tmp_path / "data").exists() and not fetched(host)


def test_no_space(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(download.UNPACKED, "panoptic", 1e12)
    assert run(host, tmp_path / "data") == 2 and "GiB are needed" in capsys.readouterr().err
    assert not (tmp_path / "data").exists() and not fetched(host)


@pytest.mark.parametrize(
    "where", ["panoptic_annotations_trainval2017.zip", "train-00001-of-00002.parquet", "train2017.zip"]
)
def test_ctrl_c_loses_nothing(host, tmp_path, where, capsys):
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt(path, sent):
        if path.endswith(where) and sent >= (0 if where.endswith("parquet") else 8192):
            host.before_write = lambda path, sent: None
            threading.Event().wait(0.2)  # in which what was sent arrives
            os.kill(os.getpid(), signal.SIGINT)
            raise OSError("gone")

    try:
        host.before_write = interrupt
        assert run(host, tmp_path) == 130 and "interrupted" in capsys.readouterr().err
    finally:
        signal.signal(signal.SIGINT, handler)
    first = list(host.requests)
    host.requests.clear()
    assert run(host, tmp_path) == 0
    assert json.loads((tmp_path / "psg" / "psg.json").read_text()) == host.content
    assert host.pictures.items() <= files(tmp_path / "coco").items()
    assert not [name for name in files(tmp_path) if name.endswith(".part")]
    again = [request for request in host.requests if where in request and request.startswith("GET")]
    if where.endswith(".zip"):
        assert len(again) == 1 and int(again[0].rpartition("=")[2][:-1]) > 0
    # What was whole before is not fetched again.
    whole = {"panoptic": 0, "train-00": 1, "train201": 2}[where[:8]]
    names = ["panoptic_annotations_trainval2017.zip", "val2017.zip"][:whole]
    assert [n for n in names if n in " ".join(first)] == names
    assert not [r for r in host.requests if r.startswith("GET") and any(n in r for n in names)]


def test_bad_hosts(host, tmp_path, capsys):
    shards = hub_files(host.content, host.pictures)
    shards.pop("categories.json")
    host.put_hub(shards)
    assert run(host, tmp_path / "a") == 2
    assert "categories.json or description: expected JSON with categories" in capsys.readouterr().err
    host.files.pop(f"/api/datasets/{REPOSITORY}")
    assert run(host, tmp_path / "b") == 2 and f"{REPOSITORY}: " in capsys.readouterr().err
    host.files.clear()
    assert run(host, tmp_path / "c") == 2 and "panoptic_annotations_trainval2017.zip: " in capsys.readouterr().err
