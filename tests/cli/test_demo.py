"""The demo program: images, videos and folders in, result files and one page out; what Ctrl-C leaves."""

import json
import os
import re
import signal
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import cv2
import jsonschema
import numpy as np
import pytest
from PIL import Image

from usg_psg.cli import demo, demo_share
from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.data.video import count_frames, read_frames
from usg_psg.engine import USGCheckpointer
from usg_psg.graph_formats import read_graph
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.scene_graph import SceneGraph
from usg_psg_cli import parse, program

from ..programs import ROOT, exit_status, start
from ..visualization.scenes import stripes

CONFIG = "configs/quickstart/usg_par_quickstart.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Environment and options of a model with random weights."""
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", num_train=1, num_val=1, size=(96, 128), preset="easy", seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        cfg = build_cfg("quickstart/usg_par_quickstart.yaml", ["MODEL.DEVICE", "cpu"])
        USGCheckpointer(SceneGraphPredictor(cfg, allow_random=True).model, str(root)).save("model")
    options = ["MODEL.WEIGHTS", str(root / "model.pth"), "MODEL.DEVICE", "cpu", "TEST.USG.OBJECT_THRESHOLD", "0.0"]
    return {"DETECTRON2_DATASETS": str(root)}, [*options, "INPUT.MIN_SIZE_TEST", "64"]


@pytest.fixture
def run(model, monkeypatch):
    """The program in this process: arguments to exit status."""
    environment, options = model
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: program("demo")(["--config-file", str(ROOT / CONFIG), *arguments, "--opts", *options])


def write_video(path, frames=7, size=(48, 64)):
    """Frame n is a gray of 30 n; Motion-JPEG keeps it to a few levels."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size[::-1])
    assert writer.isOpened()
    for n in range(frames):
        writer.write(np.full((*size, 3), 30 * n % 256, np.uint8))
    writer.release()
    return path


def page_index(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    (index,) = re.findall(r'<script type="application/json" id="index">(.*?)</script>', text)
    return json.loads(index)


def page_names(folder):
    return [entry["name"] for entry in page_index(folder)["items"]]


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures, which take a second each, are not drawn."""
    nothing = SimpleNamespace(savefig=lambda path, **_: Path(path).touch())
    monkeypatch.setattr(demo_share, "draw_overlay", lambda image, graph: image)
    monkeypatch.setattr(demo_share, "draw_graph", lambda graph: nothing)


@pytest.fixture
def sees_stripes(undrawn, monkeypatch):
    """The predictor finds the same stripes in any image."""
    sizes = lambda images: [(i["height"], i["width"]) for i in images]  # noqa: E731
    monkeypatch.setattr(SceneGraphPredictor, "run", lambda self, images: [stripes(*size) for size in sizes(images)])


def test_frames_of_a_video(tmp_path):
    path = write_video(tmp_path / "clip.avi")
    frames = list(read_frames(path, step=3))
    assert [(number, round(seconds, 3)) for number, seconds, _ in frames] == [(0, 0.0), (3, 0.3), (6, 0.6)]
    assert [frame.shape for *_, frame in frames] == [(48, 64, 3)] * 3
    assert [round(float(frame.mean()) / 30) for *_, frame in frames] == [0, 3, 6]
    assert [number for number, *_ in read_frames(path, step=2, limit=2)] == [0, 2]
    assert [count_frames(path), count_frames(path, 3), count_frames(path, 2, 2)] == [7, 3, 2]
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    with pytest.raises(ValueError, match=r"broken\.mp4: not a readable video"):
        list(read_frames(tmp_path / "broken.mp4"))
    with pytest.raises(FileNotFoundError, match="none"):
        list(read_frames(tmp_path / "none.avi"))
    with pytest.raises(ValueError, match="expected 1 or more"):
        list(read_frames(path, step=0))


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


def test_a_video_has_objects_with_ids_and_relations_with_intervals(run, sees_stripes, tmp_path):
    video, output = write_video(tmp_path / "clip.avi"), tmp_path / "out"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    inputs = ["--input", str(tmp_path / "a.png"), str(video), "--frame-step", "2"]
    assert run(*inputs, "--output", str(output)) == 0
    data = json.loads((output / "clip_tracks.json").read_text())
    assert [(frame["number"], frame["seconds"]) for frame in data["frames"]] == [(0, 0.0), (2, 0.2), (4, 0.4), (6, 0.6)]
    graph = SceneGraph.from_json((output / "clip_000004.json").read_text())
    assert [obj.label for obj in graph.objects] == [obj["label"] for obj in data["objects"]]
    assert [(r["first"], r["last"], r["frames"]) for r in data["relations"]] == [(0, 6, 4)] * len(graph.relations)
    (timeline,) = page_index(output)["timelines"]
    first = data["relations"][0]
    text = " ".join(
        (graph.objects[first["subject"] - 1].label, first["predicate"], graph.objects[first["object"] - 1].label)
    )
    assert (timeline["first"], timeline["last"]) == (1, 4)
    assert timeline["rows"][0] == [text, 1, 4, pytest.approx(first["score"])]


def test_a_folder_of_frames_is_a_video_where_it_is_said_to_be(run, sees_stripes, tmp_path, capsys):
    folder, output = tmp_path / "frames", tmp_path / "out"
    folder.mkdir()
    for n in range(5):
        Image.fromarray(np.zeros((40, 50 if n != 3 else 51, 3), np.uint8)).save(folder / f"{n}.png")
    (folder / "1.png").write_bytes(b"no image")
    assert run("--input", str(folder), "--video", "--output", str(output)) == 1
    data = json.loads((output / "frames_tracks.json").read_text())
    assert [frame["number"] for frame in data["frames"]] == [0, 2, 4], "1 is broken, 3 of another size"
    assert page_names(output) == ["0.png", "2.png", "4.png"]
    error = capsys.readouterr().err
    assert "1.png: left out" in error and "3.png: left out: frame 3: expected 40x50, as before, got 40x51" in error
    assert run("--input", str(folder), "--output", str(tmp_path / "images")) == 1
    assert not list((tmp_path / "images").glob("*_tracks.json"))


def test_a_resumed_video_knows_the_frames_before(run, sees_stripes, tmp_path):
    video, output = write_video(tmp_path / "clip.avi"), tmp_path / "out"
    arguments = ["--input", str(video), "--output", str(output)]
    assert run(*arguments, "--max-frames", "3") == 0
    assert run(*arguments, "--max-frames", "5", "--resume") == 0
    data = json.loads((output / "clip_tracks.json").read_text())
    assert [frame["number"] for frame in data["frames"]] == [0, 1, 2, 3, 4]
    assert {obj["frames"] for obj in data["objects"]} == {5}


def test_two_videos_and_a_page_that_ends_before_them(run, sees_stripes, tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.avi", frames=3)
    output = tmp_path / "out"
    assert run("--input", str(tmp_path), "--page-images", "4", "--output", str(output)) == 0
    for name in ("a", "b"):
        assert len(json.loads((output / f"{name}_tracks.json").read_text())["frames"]) == 3
    assert [(t["first"], t["last"]) for t in page_index(output)["timelines"]] == [(0, 2), (3, 3)]


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


def press_in_pass(monkeypatch, number):
    """Ctrl-C while the network works for the number-th time."""
    parse, seen = SceneGraphPredictor.run, []

    def press(predictor, prepared):
        seen.append(prepared)
        if len(seen) == number:
            signal.raise_signal(signal.SIGINT)
        return parse(predictor, prepared)

    monkeypatch.setattr(SceneGraphPredictor, "run", press)


def test_the_planned_total_is_said_after_ctrl_c(run, tmp_path, capsys, monkeypatch):
    for n in range(5):
        Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(tmp_path / f"{n}.png")
    press_in_pass(monkeypatch, 2)
    assert run("--input", str(tmp_path), "--output", str(tmp_path / "out"), "--batch-size", "1") == 130
    assert "interrupted: 2 of 5 images parsed" in capsys.readouterr().out


def test_a_total_that_no_file_tells_is_not_made_up():
    run = demo.Run(Namespace(), None)
    run.parsed, run.failed = 1, 0
    assert [run.summary(complete) for complete in (False, True)] == ["1 image parsed", "1 of 1 image parsed"]
    run.parsed, run.failed = 3, 1
    assert run.summary(complete=False) == "3 images parsed" and run.summary(complete=True) == "3 of 4 images parsed"
    run.total = 2  # the header of a video was wrong
    assert run.summary(complete=False) == "3 of 4 images parsed"


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


def test_an_output_that_cannot_be_written(run, tmp_path, capsys):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(tmp_path / f"{name}.png")
    output, inputs = tmp_path / "out", [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    (output / "b_graph.png").mkdir(parents=True)
    assert run("--input", *inputs, "--output", str(output)) == 1
    printed = capsys.readouterr().out
    assert "stopped, " in printed and "b_graph.png" in printed and "1 of 2 images parsed" in printed
    assert page_names(output) == ["a.png"] and not (output / "b_overlay.png").exists()
    (output / "index.html.tmp").mkdir()
    assert run("--input", *inputs, "--output", str(output)) == 2
    assert "index.html.tmp" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_finished(model, tmp_path):
    video, output = write_video(tmp_path / "clip.avi", frames=500), tmp_path / "out"
    arguments = ["--config-file", CONFIG, "--input", str(video), "--output", str(output), "--opts", *model[1]]
    process = start("tools/demo.py", *arguments, env=model[0])
    try:
        end = time.monotonic() + 300
        while len(list(output.glob("*.json"))) < 2 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted: " in out, err
    assert "Traceback" not in err
    tracks = output / "clip_tracks.json"
    finished = sorted(set(output.glob("*.json")) - {tracks})
    assert 2 <= len(finished) < 500
    for path in finished:
        SceneGraph.from_json(path.read_text())
        for ending in ("_overlay.png", "_graph.png"):
            with Image.open(output / (path.stem + ending)) as picture:
                picture.load()
    names = page_names(output)
    # The last frame may be written but not on the page yet.
    assert len(finished) - 1 <= len(names) <= len(finished)
    assert all(f"frame {n} " in name for n, name in enumerate(names))
    assert [frame["number"] for frame in json.loads(tracks.read_text())["frames"]] == list(range(len(finished)))
    assert len(list(output.iterdir())) == 3 * len(finished) + 2, "nothing half-written is left"


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


@pytest.fixture
def folder(tmp_path):
    """Eight images of two sizes and one that is broken."""
    folder = tmp_path / "in"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for n in range(8):
        pixels = generator.integers(0, 256, (48, 64 + 40 * (n % 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def lines_of(path):
    """Graphs by the names of their files."""
    text = path.read_text()
    assert text.endswith("\n")
    return {Path(json.loads(line)["file_name"]).name: SceneGraph.from_json(line) for line in text.splitlines()}


ALL = {f"{n}.png" for n in range(8)}


def test_graphs_as_json_lines_alone(run, folder, tmp_path, capsys):
    lines = tmp_path / "graphs.jsonl"
    assert run("--input", str(folder), "--jsonl", str(lines), "--batch-size", "3") == 1
    captured = capsys.readouterr()
    assert "broken.jpg: left out: " in captured.err and "8 of 9 images parsed, " in captured.out
    assert " images/s: " in captured.out and " - " not in captured.out, "relations are printed where they are drawn"
    graphs = lines_of(lines)
    assert set(graphs) == ALL and {(g.height, g.width) for g in graphs.values()} == {(48, 64), (48, 104)}
    assert {file.name for file in tmp_path.iterdir()} == {"in", "graphs.jsonl"}
    schema = json.loads((ROOT / "usg_psg/scene_graph.schema.json").read_text())
    jsonschema.validate(json.loads(lines.read_text().splitlines()[0]), schema)
    assert run("--input", str(folder), "--jsonl", str(lines)) == 2
    assert "has graphs already: --resume goes on with it" in capsys.readouterr().err


def test_a_run_that_was_interrupted_goes_on(run, undrawn, folder, tmp_path, capsys, monkeypatch):
    lines, output = tmp_path / "graphs.jsonl", tmp_path / "out"
    arguments = ["--input", str(folder), "--jsonl", str(lines), "--output", str(output), "--batch-size", "2"]
    with monkeypatch.context() as patch:
        press_in_pass(patch, 2)
        assert run(*arguments) == 130
    before = lines_of(lines)
    assert 0 < len(before) < 8 and set(page_names(output)) == set(before)
    kept = {file: file.stat().st_mtime_ns for file in output.glob("*.json")}
    with open(lines, "a") as file:
        file.write('{"file_name": "in/7.png", "form')  # as a killed run leaves it
    capsys.readouterr()
    assert run(*arguments, "--resume") == 1
    assert f"{8 - len(before)} of 9 images parsed, {len(before)} finished before" in capsys.readouterr().out
    assert set(lines_of(lines)) == ALL and lines.read_text().count("\n") == 8
    assert page_names(output) == sorted(ALL), "those of before, too, in the order of the files"
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    assert {file.stem + ".png" for file in output.glob("*.json")} == ALL

    # Either of the two is missing: parsed again. A file of another image by that name is not taken for the page's.
    (output / "3.json").unlink()
    (output / "4.json").write_text((output / "5.json").read_text())
    assert run(*arguments, "--resume") == 1
    assert "2 of 9 images parsed, 6 finished before" in capsys.readouterr().out
    assert lines_of(lines)["4.png"] == SceneGraph.from_json((output / "4.json").read_text())
    lines.write_text("[]\n")
    assert run(*arguments, "--resume") == 2
    assert "graphs.jsonl, line 1: expected a JSON object" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_share_the_files(run, folder, tmp_path, capsys):
    write_video(folder / "clip.avi", frames=3)
    lines, output = tmp_path / "graphs.jsonl", tmp_path / "out"
    arguments = ["--input", str(folder), "--jsonl", str(lines), "--output", str(output), "--batch-size", "2"]
    assert run(*arguments, "--num-gpus", "2") == 1
    captured = capsys.readouterr()
    assert "broken.jpg: left out: " in captured.err and "11 of 12 images parsed" in captured.out
    assert "0.png:\n" in captured.out
    frames = [json.loads(line).get("frame") for line in lines.read_text().splitlines() if "clip" in line]
    assert frames == [0, 1, 2]
    assert page_names(output) == [*sorted(ALL), *(f"clip.avi frame {n} (0:00.{n}0)" for n in range(3))]
    found = {name: graph for name, graph in lines_of(lines).items() if name in ALL}
    assert set(found) == ALL
    assert run(*arguments, "--resume") == 1
    assert "11 finished before" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_to_two_processes_leaves_whole_lines(model, tmp_path):
    for n in range(200):
        Image.new("RGB", (64, 48 + n % 7)).save(tmp_path / f"{n}.png")
    lines = tmp_path / "graphs.jsonl"
    arguments = ["--config-file", CONFIG, "--input", str(tmp_path), "--jsonl", str(lines), "--num-gpus", "2"]
    process = start("tools/demo.py", *arguments, "--opts", *model[1], env=model[0], start_new_session=True)
    try:
        end = time.monotonic() + 300
        while (not lines.exists() or lines.stat().st_size == 0) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted: " in out and "Traceback" not in err, err
    parsed = int(re.search(r"interrupted: (\d+) of 200 images parsed", out)[1])
    assert len(lines_of(lines)) == parsed > 0
