"""The pass over a whole data set: processes that die or hang, Ctrl-C, the report, and damage by chance."""

from __future__ import annotations

import copy
import importlib
import io
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from usg_psg.data import PSG_VOCABULARY, PSGDatasetMapper, load_psg_json
from usg_psg.data.validation.check_dataset import check_dataset, format_report, one_line, report_to_dict
from usg_psg.images import check_image, read_image
from usg_psg.utils.worker_pool import Failure, run_isolated

from ...processes import alive, children_of
from ...programs import start
from ..psg_files import content, record, write_images, write_json
from .bad_cases import MENDED, RECORDS, WARNINGS, build

TOOL = Path(__file__).resolve().parents[3] / "tools" / "prepare_psg.py"
FUZZ = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def many(folder, number):
    """A data set of records that share one picture."""
    write_images(folder, record("0"))
    return write_json(folder, content([{**record("0"), "image_id": str(i)} for i in range(number)], ["0"]))


@pytest.fixture
def tool(monkeypatch):
    """The program's main function."""
    monkeypatch.syspath_prepend(str(TOOL.parent))
    return importlib.import_module(TOOL.stem).main


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_find_what_one_process_finds(tmp_path, workers):
    path, _ = build(MENDED["unlisted_ids"], tmp_path)
    data = json.loads(path.read_text())
    data["data"] += [{**record("7"), "image_id": str(i), "height": -i} for i in range(100, 160)]
    path.write_text(json.dumps(data))
    seen = []
    alone = check_dataset(path, tmp_path, workers=0, limit_examples=3)
    shared = check_dataset(path, tmp_path, workers=workers, limit_examples=3, progress=lambda *x: seen.append(x))
    assert report_to_dict(shared) == report_to_dict(alone)
    assert seen == [(i, 63) for i in range(1, 64)]
    assert len(alone.examples["size"]) == 3 and alone.counts["size"] == 60
    assert "\n  and 57 more\n" in format_report(shared)


def killed_at_seven(number):
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def killed_once(number, folder):
    marker = Path(folder) / "died"
    if number == 20 and not marker.exists():
        marker.touch()
        os._exit(3)
    return number


def hanging_at_five(number):
    if number == 5:
        time.sleep(600)
    return number


def test_process_that_dies_costs_one_number():
    results = dict(run_isolated(killed_at_seven, 100, 2, 30.0))
    assert sorted(results) == list(range(100))
    assert results.pop(7) == Failure("the process that read it ended with signal 9 (SIGKILL)")
    assert results == {i: 10 * i for i in range(100) if i != 7}


def test_process_that_dies_by_chance_costs_nothing(tmp_path):
    results = dict(run_isolated(lambda n: killed_once(n, tmp_path), 64, 2, 30.0))
    assert (tmp_path / "died").exists() and results == {i: i for i in range(64)}


def test_process_that_hangs_is_replaced():
    start = time.monotonic()
    results = dict(run_isolated(hanging_at_five, 40, 2, 1.0))
    assert time.monotonic() - start < 20
    assert results.pop(5) == Failure("reading it took more than 1 seconds")
    assert results == {i: i for i in range(40) if i != 5}


def test_a_caller_may_take_longer_than_the_limit(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("usg_psg.utils.worker_pool.time", SimpleNamespace(monotonic=lambda: now[0]))
    results = {}
    for number, result in run_isolated(abs, 9, 1, 30.0):
        now[0] += 100.0
        results[number] = result
    assert results == {i: i for i in range(9)}


def test_failed_reader_is_a_error(tmp_path, monkeypatch):
    path = many(tmp_path, 3)
    # The process itself is what fails: nothing that a file can do kills it reproducibly.
    monkeypatch.setattr("usg_psg.data.validation.check_dataset.validate_image", lambda *_: os._exit(9))
    report = check_dataset(path, tmp_path, workers=1)
    assert report.counts["reader_failed"] == report.num_errors == 3 and report.complete
    assert "image_id '1', data: the process that read it ended with exit code 9" in format_report(report)


def test_closing_ends_the_processes():
    before = children_of(os.getpid())  # an earlier test's, for example the tracker of multiprocessing's resources
    results = run_isolated(time.sleep, 50, 2, 30.0)
    next(results)
    children = children_of(os.getpid()) - before
    assert len(children) == 2
    results.close()
    assert not alive(children)


def test_command_line(tmp_path, tool, capsys):
    path, paths = build(RECORDS["predicate"], tmp_path)
    report = tmp_path / "report.json"
    common = ["--image-root", str(tmp_path), "--workers", "1"]
    assert tool(["check", "--json", str(path), *common, "--report", str(report)]) == 1
    printed = capsys.readouterr().out
    assert RECORDS["predicate"].message.format(**paths) in printed
    assert "3 images checked: 1 errors in 1 images, 0 mended, 1 warnings" in printed
    found = json.loads(report.read_text())
    assert found["kinds"][0]["kind"] == "predicate_range" and found["complete"]
    clean = tmp_path / "clean.json"
    assert tool(["fix", "--json", str(path), *common, "--output", str(clean)]) == 0
    assert "data[1].relations[4]: relation removed, predicate 4 is out of range" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "clean.json.changes.json").read_text())["changes"]) == 1
    assert tool(["check", "--json", str(clean), *common]) == 0
    assert tool(["index", "--json", str(clean)]) == 0
    assert tool(["stats", "--json", str(clean), "--output", str(tmp_path / "counts")]) == 0
    assert sorted(p.name for p in (tmp_path / "counts").iterdir()) == ["predicates.png", "statistics.json"]
    assert "related_pairs" in capsys.readouterr().out
    path.write_text("[]")
    assert tool(["stats", "--json", str(path)]) == 2
    assert capsys.readouterr().err.endswith(f": error: {path}: not a PSG file, the key 'data' is missing\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["check", "--json", "absent.json", "--image-root", "."], "--json: there is no file absent.json"),
        (["check", "--json", "psg.json", "--image-root", "absent"], "--image-root: there is no folder absent"),
        (["check", "--json", "psg.json", "--image-root", ".", "--workers", "0"], "expected 1 or more, got 0"),
        (
            ["check", "--json", "psg.json", "--image-root", ".", "--report", "psg.json"],
            "--report: psg.json is the input",
        ),
        (["check", "--json", "psg.json", "--image-root", ".", "--report", "a/b"], "--report: there is no folder"),
        (
            ["fix", "--json", "psg.json", "--image-root", ".", "--output", "link.json"],
            "--output: link.json is the input",
        ),
        (
            ["fix", "--json", "psg.json", "--image-root", ".", "--output", "a.json", "--log", "./a.json"],
            "--log: a.json is --output, too",
        ),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, capsys, tool, args, message):
    path = many(tmp_path, 2)
    (tmp_path / "link.json").symlink_to(path)
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        tool(args)
    assert error.value.code == 2
    assert message in capsys.readouterr().err and path.read_bytes() == before


@pytest.mark.slow
def test_interrupt_gives_the_partial_table(tmp_path):
    path = many(tmp_path, 6_000)
    process = start(TOOL, "check", "--json", path, "--image-root", tmp_path, "--workers", 2, text=False)
    seen = b""
    while not re.search(rb" [1-9]\d*/6000 ", seen):  # until the bar moves
        piece = os.read(process.stderr.fileno(), 4096)
        assert piece, seen
        seen += piece
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert b"interrupted: " in output and b" of 6,000 images checked" in output
    assert b"Traceback" not in errors


def test_names_of_psg_are_expected_on_request(tmp_path):
    path = many(tmp_path, 2)
    report = check_dataset(path, tmp_path, workers=0, vocabulary=PSG_VOCABULARY)
    assert report.counts == {"file": 1}
    assert "thing_classes[1]: registered as 'bicycle', the file says 'cup'" in format_report(report)


def test_text_is_one_printable_line():
    assert one_line("a\nb\x1b[0m\ud800é") == "a\\nb\\x1b[0m\\ud800é"


def test_empty_splits_are_notes(tmp_path):
    report = check_dataset(write_json(tmp_path, content([], [])), tmp_path, workers=0)
    assert report.counts == {"empty_split": 2} and report.complete


@pytest.mark.parametrize(("ends", "counts"), [([1, 2], {"no_first_segment": 1}), ([2, 0], {})])
def test_positions_that_count_from_one_are_noted(tmp_path, ends, counts):
    write_images(tmp_path, record("0"))
    records = [{**record("0"), "image_id": str(i), "relations": [[1, 2, 0], [*ends, 1]]} for i in range(50)]
    assert check_dataset(write_json(tmp_path, content(records, ["0"])), tmp_path, workers=0).counts == counts


# Damage by chance: nothing may crash or hang, and what the loader rejects check_dataset reports.
def loader_rejects(path, root):
    """Image ids that training would stop at; "" if the file as a whole."""
    try:
        dicts = load_psg_json(path, root, "trainval")
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    mapper, messages = PSGDatasetMapper(is_train=True, augmentations=[]), []
    for each in dicts:
        try:
            mapper(each)
        except (ValueError, FileNotFoundError) as error:
            messages.append(str(error))
    return messages


def check_agreement(path, root):
    report = check_dataset(path, root, workers=0, limit_examples=1000)
    texts = [f.describe(report.json_file) for e in report.examples.values() for _, f in e if f.is_error]
    rejected = loader_rejects(path, root)
    empty = "has no image"
    for message in rejected:
        assert message in texts or empty in message or "has no valid image" in message
    if report.num_errors and not report.counts["unknown_test_image"]:
        assert rejected  # nothing that the loader takes is called an error
    report_to_dict(report)
    one_line(format_report(report)).encode()


@pytest.fixture
def whole(tmp_path):
    """A data set with a PNG as picture and one with a JPEG."""
    entries = [record("5"), record("66")]
    entries[1]["file_name"] = "train2017/66.jpg"
    for entry in entries:
        write_images(tmp_path, entry)
    return write_json(tmp_path, content(entries, [])), tmp_path


def damages():
    """Functions of bytes: cut off, bytes replaced, bytes inserted."""
    cut = st.floats(0, 1).map(lambda part: lambda b: b[: int(len(b) * part)])
    spots = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8)

    def replace(pairs):
        def apply(data):
            data = bytearray(data)
            for where, value in pairs:
                data[min(int(where * len(data)), len(data) - 1)] = value
            return bytes(data)

        return apply

    insert = st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=9)).map(
        lambda x: lambda b: b[: int(len(b) * x[0])] + x[1] + b[int(len(b) * x[0]) :]
    )
    return st.one_of(cut, spots.map(replace), insert)


@pytest.mark.parametrize("target", ["train2017/5.png", "train2017/66.jpg", "panoptic_train2017/66.png"])
@FUZZ
@given(damage=damages())
def test_damaged_picture(whole, target, damage):
    path, root = whole
    file = root / target
    good = file.read_bytes()
    try:
        file.write_bytes(damage(good))
        check_agreement(path, root)
    finally:
        file.write_bytes(good)


@FUZZ
@given(damage=damages())
def test_damaged_json_bytes(whole, damage):
    path, root = whole
    good = path.read_bytes()
    try:
        path.write_bytes(damage(good))
        check_agreement(path, root)
    finally:
        path.write_bytes(good)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([2**31, 10**30, 10**400, -(10**400), 1e308, float("inf"), float("nan"), 1.0]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["", "\0", "\ud800", "..", "/", "train2017", "train2017/5.png\n"]),
    st.lists(st.integers(-1, 4), max_size=5),
    st.dictionaries(st.sampled_from(["id", "bbox"]), st.integers(), max_size=2),
)


def places(value, path=()):
    """Paths of all values inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


PLACES = list(places(content([record("5"), record("66")], [])))


@settings(FUZZ, max_examples=150)
@given(edits=st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "del", "twice"]), VALUES), max_size=3))
def test_edited_json(whole, edits):
    path, root = whole
    value = good = json.loads(path.read_text())
    value = copy.deepcopy(good)
    for place, action, new in edits:
        edit(value, place, action, new)
    try:
        path.write_text(json.dumps(value))
        check_agreement(path, root)
    finally:
        path.write_text(json.dumps(good))


def edit(value, place, action, new):
    *outer, last = place
    for key in outer:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return  # an earlier edit took it away
    if not isinstance(value, dict) and not (isinstance(value, list) and last in range(len(value))):
        return
    if action == "set":
        value[last] = new
    elif action == "del":
        value.pop(last, None) if isinstance(value, dict) else value.pop(last)
    elif isinstance(value, list):
        value.append(value[last])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True, "quality": 20}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_small_decoding_finds_every_cut(tmp_path, mode, options):
    """A JPEG cut anywhere is rejected in one eighth of its size exactly when it is rejected in full."""
    noise = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "jpeg", **options)
    data, path = buffer.getvalue(), tmp_path / "a.jpg"
    verdicts = []
    for length in [*range(0, len(data), max(1, len(data) // 60)), *range(len(data) - 20, len(data) + 1)]:
        path.write_bytes(data[:length])
        verdicts.append((_takes(read_image, path), _takes(check_image, path)))
    assert all(a == b for a, b in verdicts)
    assert {a for a, _ in verdicts} == {True, False}


def _takes(function, path):
    try:
        function(str(path), size=(50, 70), image_id="1")
    except ValueError:
        return False
    return True


def test_every_note_survives_the_command(tmp_path):
    for name in WARNINGS:
        folder = tmp_path / name
        folder.mkdir()
        path, _ = build(WARNINGS[name], folder)
        assert check_dataset(path, folder, workers=1).num_errors == 0
        shutil.rmtree(folder)
