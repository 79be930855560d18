"""The demo program on videos: frames, objects that keep their ids, relations with intervals."""

import json

import numpy as np
import pytest
from PIL import Image

from usg_psg.data.video import count_frames, read_frames
from usg_psg.scene_graph import SceneGraph

from .files import page_index, page_names, write_video


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
