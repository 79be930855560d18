"""The demo program on folders: lines of JSON, what Ctrl-C leaves, going on, several processes."""

import json
import os
import re
import signal
import time
from argparse import Namespace

import jsonschema
import numpy as np
import pytest
from PIL import Image

from usg_psg.cli import demo
from usg_psg.scene_graph import SceneGraph

from ...programs import ROOT, start
from .files import ALL, CONFIG, lines_of, page_names, press_in_pass, write_video


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
