"""The demo program: images and folders in, result files and one page out; options."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usg_psg.cli import demo_share
from usg_psg.graph_formats import read_graph
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.scene_graph import SceneGraph
from usg_psg_cli import parse

from ...programs import exit_status
from ...visualization.scenes import stripes
from .files import CONFIG, page_names, write_video


def test_a_folder_with_images_videos_and_broken_files(run, tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(np.random.randint(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / "a.png")
    write_video(folder / "clip.avi")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("neither")
    arguments = ["--frame-step", "2", "--max-frames", "2", "--svg", "--page-relations", "5"]
    arguments += ["--format", "graphml", "csv"]
    assert run("--input", str(folder), "--output", str(output), *arguments) == 1
    captured = capsys.readouterr()
    assert "broken.mp4: left out" in captured.err and "3 of 4 images parsed" in captured.out
    stems = ["a", "clip_000000", "clip_000002"]
    endings = ["_overlay.png", "_graph.png", "_graph.svg", ".json", ".graphml", ".objects.csv", ".relations.csv"]
    written = {*(s + e for s in stems for e in endings), "clip_tracks.json", "index.html"}
    assert {f.name for f in output.iterdir()} == written
    assert page_names(output) == ["a.png", "clip.avi frame 0 (0:00.00)", "clip.avi frame 2 (0:00.20)"]
    page = (output / "index.html").read_text()
    assert str(tmp_path) not in page and '"least":0.02' in page
    graph = SceneGraph.from_json((output / "clip_000002.json").read_text())
    assert (graph.height, graph.width) == (48, 64) and read_graph(output / "clip_000002.graphml") == graph
    assert (output / "a_graph.svg").read_text().lstrip().startswith("<?xml")


def test_files_of_the_same_name_and_a_page_of_the_first_images(run, tmp_path, capsys):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(tmp_path / folder / "same.png")
    pattern, output = str(tmp_path / "*" / "same.png"), tmp_path / "out"
    assert run("--input", pattern, "--output", str(output), "--page-images", "1") == 0
    assert {f.name for f in output.glob("*.json")} == {"same.json", "same_2.json"}
    assert page_names(output) == ["x/same.png"]
    assert "first 1 image (" in capsys.readouterr().out


def test_the_overlay_has_all_masks_whatever_relations_are_shown(tmp_path):
    """The relations in the pictures are a choice among the graph's; its objects are not."""
    graph, image = stripes(), np.full((60, 80, 3), 90, np.uint8)
    command = ["--config-file", CONFIG, "--input", "a", "--output", str(tmp_path), "--top-k", "1"]
    source = demo_share.Source(demo_share.File(0, Path("a.png"), "a", "a"))
    text = demo_share.write_results(source, graph, image, parse("demo", command))
    written = np.asarray(Image.open(tmp_path / "a_overlay.png"))
    assert written.shape == (675, 900, 3) and (written != 90).any(axis=2).all()
    assert SceneGraph.from_json((tmp_path / "a.json").read_text()) == graph
    assert text.startswith("a.png:\n") and text.count(" - ") == 2, "one relation"


def test_a_picture_that_cannot_be_parsed_is_left_out(run, tmp_path, capsys, monkeypatch):
    for name, size in (("a", (32, 40)), ("b", (2, 40)), ("c", (32, 41))):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    prepare = SceneGraphPredictor.prepare

    def refuse(predictor, image):
        if len(image) == 2:
            raise ValueError("height and width must be > 0")
        return prepare(predictor, image)

    monkeypatch.setattr(SceneGraphPredictor, "prepare", refuse)
    output = tmp_path / "out"
    assert run("--input", str(tmp_path), "--output", str(output)) == 1
    captured = capsys.readouterr()
    assert f"{tmp_path / 'b.png'}: left out: height and width" in captured.err
    assert "2 of 3 images parsed" in captured.out
    assert {f.name for f in output.glob("*.json")} == {"a.json", "c.json"}
    assert page_names(output) == ["a.png", "c.png"]


def test_file_names_that_are_not_utf8(run, tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9")
    try:
        (folder / f"{name}-clip.avi").write_bytes(b"")
    except (OSError, UnicodeError):
        pytest.skip("the file system takes UTF-8 only")
    with open(folder / f"{name}.png", "wb") as file:
        Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(file)
    assert run("--input", str(folder), "--output", str(output), "--svg") == 1
    captured = capsys.readouterr()
    assert "caf\\udce9-clip.avi: left out: videos are read by names in UTF-8" in captured.err
    assert "caf\\udce9.png:" in captured.out and "1 of 2 images parsed" in captured.out
    endings = ("_overlay.png", "_graph.png", "_graph.svg", ".json")
    assert {f.name for f in output.iterdir()} == {*(name + ending for ending in endings), "index.html"}
    assert page_names(output) == ["caf\\udce9.png"]


def test_help_states_the_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("demo", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    defaults = {"top-k": 10, "score-threshold": 0.02, "frame-step": 1, "max-frames": "all"}
    for option, default in {**defaults, "page-relations": 200, "page-images": 300}.items():
        assert re.search(rf"--{option} [A-Z_]+ [^(]*\(default {default}\)", text), option


@pytest.mark.parametrize("value", ["nan", "-0.1", "2", "inf"])
def test_a_threshold_that_is_no_score_is_refused_before_work_starts(capsys, value):
    command = ["--config-file", CONFIG, "--input", "a", "--output", "b", "--score-threshold", value]
    assert exit_status(parse, "demo", command) == 2
    assert "--score-threshold: expected 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["frame-step", "max-frames", "top-k", "page-images"])
def test_numbers_out_of_range_are_named(run, tmp_path, capsys, name):
    with pytest.raises(SystemExit) as stopped:
        run("--input", str(tmp_path), "--output", str(tmp_path), f"--{name}", "-1")
    assert stopped.value.code == 2 and f"--{name}: expected" in capsys.readouterr().err


def test_images_of_extreme_shape(run, tmp_path, capsys):
    """Thin ones are parsed, one with too many pixels is left out."""
    Image.new("RGB", (65_500, 1)).save(tmp_path / "flat.jpg")
    Image.new("RGB", (1, 65_500)).save(tmp_path / "tall.jpg")
    Image.new("1", (12_000, 12_000)).save(tmp_path / "vast.png")
    output = tmp_path / "out"
    assert run("--input", str(tmp_path), "--output", str(output)) == 1
    captured = capsys.readouterr()
    assert f"{tmp_path / 'vast.png'}: left out: pictures of more than" in captured.err
    assert "2 of 3 images parsed" in captured.out
    assert {f.name for f in output.glob("*.json")} == {"flat.json", "tall.json"}
