"""What a user's mistakes get: one line and status 2, before a data set is read or a model is built."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from usg_psg.cli import train
from usg_psg.config import build_cfg
from usg_psg.config.checks import value_problems
from usg_psg.config.defaults import KEYS
from usg_psg.config.files import override_pairs
from usg_psg.data import register_psg, unregister_psg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import USGCheckpointer, check_run, launch
from usg_psg.pretrained.convert import target_model
from usg_psg_cli import parse, program

from ..config.test_config import RECIPES
from ..data.psg_files import content, record, write_json
from ..programs import ROOT, exit_status, start
from .bad_runs import CONFIGURATION, RECIPE, SURROUNDINGS, BadRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set root, and a small model's checkpoint with its configuration."""
    folder = tmp_path_factory.mktemp("bad_runs")
    generate_psg_shapes(folder / "datasets" / "psg_shapes", 4, 2, size=(64, 64), preset="easy", seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
        cfg = build_cfg(str(ROOT / RECIPE), ["MODEL.DEVICE", "cpu"])
        USGCheckpointer(build_model(cfg), str(folder / "run")).save("model")
        (folder / "run" / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    """Run tools/train_net.py in this process; gives its line of error, without program name and "error: "."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def no_model(*_):
        raise AssertionError("a model is built, or a data set read, before the mistake is found")

    monkeypatch.setattr(train, "run_process", no_model)

    def run(case: BadRun) -> str:
        case.prepare(folder)
        config = str(ROOT / RECIPE)
        if case.config is not None:
            config = str(folder / "config.yaml")
            Path(config).write_text(case.config)
        words = [*case.options, *(["OUTPUT_DIR", "{folder}"] if len(case.overrides) != 1 else []), *case.overrides]
        command = ["--config-file", config, *(word.replace("{folder}", str(folder)) for word in words)]
        monkeypatch.setattr(sys, "argv", ["tools/train_net.py", *command])
        assert exit_status(program("train"), command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("train_net.py: error: ")
        return line.removeprefix("train_net.py: error: ")

    return run


@pytest.mark.parametrize("name", CONFIGURATION)
def test_configuration(name, folder, refused):
    case = CONFIGURATION[name]
    assert refused(case) == case.message.format(folder=folder)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings(name, folder, refused):
    case = SURROUNDINGS[name]
    assert refused(case) == case.message.format(folder=folder)


def test_the_tables_know_every_choice():
    """A shipped recipe has no problem; every word of the tables is taken, and any other refused."""
    for recipe in RECIPES:
        assert value_problems(build_cfg(recipe)) == []
    choices = {key: entry.allowed.choices for key, entry in KEYS.items() if entry.allowed and entry.allowed.choices}
    assert len(choices) > 20
    for key, known in choices.items():
        for choice in known:
            needed = ["MODEL.USG.MASK_PILOT.ENABLED", str(key == "TEST.USG.PREDCLS_QUERIES")]
            cfg = build_cfg("", [key, repr(choice), "INPUT.MIN_SIZE_TRAIN", "(640, 800)", *needed])
            assert value_problems(cfg) == []
        (problem,) = value_problems(build_cfg("", [key, "nonsense"]))
        assert problem.startswith(f"{key}: expected ")


def test_whole_numbers_are_taken_for_fractions_and_digits_for_text():
    cfg = build_cfg("", ["SOLVER.BASE_LR", "1", "OUTPUT_DIR", "2024", "MODEL.PIXEL_STD", "(1, 2, 3)"])
    assert (cfg.SOLVER.BASE_LR, cfg.OUTPUT_DIR, cfg.MODEL.PIXEL_STD) == (1.0, "2024", [1, 2, 3])
    assert isinstance(cfg.SOLVER.BASE_LR, float)


def test_files_are_merged_in_the_order_of_their_bases(tmp_path):
    (tmp_path / "a.yaml").write_text("SOLVER:\n  MAX_ITER: 1\n  BASE_LR: 1e-2\nMODEL:\n  # nothing\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\nSOLVER:\n  MAX_ITER: 2\n")
    (tmp_path / "c.yaml").write_text("_BASE_: [b.yaml]\nDATASETS:\n  TRAIN: ('x',)\n")
    cfg = build_cfg(str(tmp_path / "c.yaml"), ["DATASETS.TEST", "['y']"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (2, 0.01)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("x",), ("y",))


@pytest.mark.parametrize(
    "opts",
    [["MODEL.CLIP.FREEZE", "True"], ["MODEL.CLIP.FREEZE", "False"], ["MODEL.USG.MASK_PILOT.ENABLED", "True"]],
    ids=str,
)
def test_the_parts_that_checkpoints_are_compared_with_are_those_of_the_model(folder, monkeypatch, opts):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
    cfg = build_cfg(str(ROOT / RECIPE), ["MODEL.DEVICE", "cpu", *opts])
    built, parts = build_model(cfg).state_dict(), target_model(cfg).state_dict()
    assert {k: v.shape for k, v in built.items()} == {k: v.shape for k, v in parts.items()}


def test_another_frozen_backbone_is_found_before_a_model_is_built(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
    frozen = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.FREEZE", "True"]
    cfg = build_cfg(str(ROOT / RECIPE), frozen)
    USGCheckpointer(build_model(cfg), str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    check_run(cfg, train=True, evaluate=True)
    identity = "usg_psg.pretrained.convert.weights_identity"
    monkeypatch.setattr(identity, lambda *_: {"model": "the same weights by another name"})
    check_run(cfg, train=True, evaluate=True)  # loading compares them
    cfg.MODEL.CLIP.FREEZE = False
    with pytest.raises(ValueError, match="was trained on the frozen backbone .*set MODEL.CLIP.NAME"):
        check_run(cfg)


@pytest.mark.parametrize(
    "words", [["TEST.USG.ALLOW_RANDOM_WEIGHTS", "True"], ["MODEL.WEIGHTS", "https://example.org/model.pth"]]
)
def test_random_weights_are_evaluated_where_asked_for_and_addresses_taken(folder, monkeypatch, words):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
    check_run(build_cfg(str(ROOT / RECIPE), ["MODEL.DEVICE", "cpu", *words]), evaluate=True)


def test_missing_pictures_are_found_before_training(folder, monkeypatch, tmp_path):
    source = folder / "datasets" / "psg_shapes"
    root = tmp_path / "psg_shapes"
    root.mkdir()
    (root / "psg").symlink_to(source / "psg")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        check_run(build_cfg(str(ROOT / RECIPE)), train=True)
    expected = f"data set 'psg_shapes_train': there is no folder {root / 'coco'} (DETECTRON2_DATASETS is '{tmp_path}')"
    assert str(error.value) == expected


def test_data_sets_of_different_names_are_not_mixed(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
    register_psg("other_names", write_json(tmp_path, content([record("1")], [])), tmp_path, "trainval")
    try:
        for key in ("TRAIN", "TEST"):
            cfg = build_cfg(str(ROOT / RECIPE), [f"DATASETS.{key}", "('psg_shapes_val', 'other_names')"])
            with pytest.raises(ValueError, match=f"DATASETS.{key}: 'psg_shapes_val' and 'other_names' have different"):
                check_run(cfg, train=True, evaluate=True)
    finally:
        unregister_psg("other_names")


@pytest.mark.parametrize("torchrun", [False, True])
def test_not_enough_gpus(monkeypatch, torchrun):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4}.items():
        if torchrun:
            monkeypatch.setenv(name, str(value))
    with pytest.raises(ValueError, match="not enough GPUs: 4 processes of this machine need one each, it has 2"):
        launch(print, 4)


def test_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="MODEL.DEVICE: cuda:2, but this machine has 2 GPUs, cuda:0 to cuda:1"):
        check_run(build_cfg("", ["MODEL.DEVICE", "cuda:2"]))


def test_more_loader_processes_than_a_machine_can_run(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    check_run(build_cfg("", ["DATALOADER.NUM_WORKERS=32"]))
    with pytest.raises(ValueError, match="NUM_WORKERS: expected at most 32 .* as this machine has 8 cores, got 10000"):
        check_run(build_cfg("", ["DATALOADER.NUM_WORKERS=10000"]))


@pytest.mark.parametrize("words, example", [([], "configs/psg/usg_par_best.yaml"), (["my.yaml", "A", "1"], "my.yaml")])
def test_a_run_without_a_recipe(capsys, words, example):
    assert exit_status(program("train"), words) == 2
    assert f"type: python tools/train_net.py --config-file {example}" in capsys.readouterr().err


def test_options_may_stand_behind_overrides():
    words = ["--config-file", "a.yaml", "SOLVER.MAX_ITER=4", "--eval-only", "OUTPUT_DIR", "lr=0.1", "--num-gpus", "2"]
    args = parse("train", [*words, "SEED", "-1"])
    assert (args.config_file, args.eval_only, args.num_gpus, args.resume) == ("a.yaml", True, 2, False)
    assert override_pairs(args.opts) == [("SOLVER.MAX_ITER", "4"), ("OUTPUT_DIR", "lr=0.1"), ("SEED", "-1")]


def test_port_in_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        url = f"tcp://127.0.0.1:{busy.getsockname()[1]}"
        message = "Address already in use; is another run going on\\? '--dist-url auto' takes a free port"
        with pytest.raises(ValueError, match=f"--dist-url {url}: {message}"):
            launch(print, 2, dist_url=url)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.jpg", "no images found: --input {folder}/none.jpg: there is no file or folder {folder}/none.jpg"),
        ("*.jpg", "no images found: --input {folder}/*.jpg: no file matches {folder}/*.jpg"),
        ("", "no images found: --input {folder}/: the folder {folder} has no file .avi, .bmp, "),
    ],
    ids=["file", "pattern", "folder"],
)
def test_no_images(tmp_path, capsys, given, message):
    command = ["--config-file", str(ROOT / RECIPE), "--input", f"{tmp_path}/{given}", "--output", str(tmp_path / "out")]
    assert program("demo")(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.partition(": error: ")[2].startswith(message.format(folder=tmp_path))
    assert not (tmp_path / "out").exists()


def start_training(folder: Path, output: Path, *overrides: str) -> subprocess.Popen:
    command = ["tools/train_net.py", "--config-file", RECIPE, *overrides, "OUTPUT_DIR", str(output)]
    command += ["SOLVER.IMS_PER_BATCH", "2", "MODEL.USG.LOSS.NUM_POINTS", "64", "DATALOADER.NUM_WORKERS", "2"]
    env = {"DETECTRON2_DATASETS": str(folder / "datasets")}
    output.mkdir()
    # Files: a pipe that nobody reads yet would fill up with the log and stop the run.
    with open(output / "stdout.txt", "w") as stdout, open(output / "stderr.txt", "w") as stderr:
        return start(*command, env=env, stdout=stdout, stderr=stderr, start_new_session=True)


def printed(output: Path) -> tuple[str, str]:
    """What a run of `start_training` wrote to its output and its error output."""
    return (output / "stdout.txt").read_text(), (output / "stderr.txt").read_text()


def test_ctrl_c_ends_training_in_one_line(folder, tmp_path):
    process = start_training(folder, tmp_path / "run")
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "losses.jsonl").exists():
        assert process.poll() is None and time.monotonic() < deadline, printed(tmp_path / "run")
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the loader's workers too
    process.wait(timeout=120)
    output, errors = printed(tmp_path / "run")
    assert process.returncode == 130 and "Ctrl-C: the state is saved after this step" in errors
    assert output.splitlines()[-1].startswith("WARNING stopped by SIGINT after step ")
    assert "Traceback" not in output + errors
    assert (tmp_path / "run" / "last_checkpoint").is_file()


@pytest.mark.slow
def test_one_of_several_processes_fails(folder, tmp_path):
    """Found in the children only, after the checks: the picture is there, but cut off."""
    root = tmp_path / "datasets" / "psg_shapes"
    generate_psg_shapes(root, 2, 1, size=(64, 64), preset="easy", seed=0)
    for picture in (root / "coco" / "train2017").glob("*.jpg"):
        picture.write_bytes(picture.read_bytes()[:-200])
    process = start_training(tmp_path, tmp_path / "run", "--num-gpus", "2", "--dist-url", "auto", "MODEL.DEVICE", "cpu")
    try:
        process.wait(timeout=240)
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    output, errors = printed(tmp_path / "run")
    assert process.returncode == 2, errors
    assert "image file is truncated" in errors and "Traceback" not in output + errors
    assert "Traceback" in (tmp_path / "run" / "log.txt").read_text(), "for whoever looks for the place"
