"""tools/train_net.py as a user runs it: train, resume, evaluate, wrong arguments."""

import json
import runpy
import subprocess
from pathlib import Path

import pytest
import torch

from usg_psg.data import register_psg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.data.register_psg import unregister_psg

from ..programs import ROOT, run

SMALL = ["MODEL.USG.LOSS.NUM_POINTS", "256", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", num_train=8, num_val=4, size=(96, 128), preset="easy", seed=0)
    return root


def train_net(datasets: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = ["tools/train_net.py", "--config-file", "configs/quickstart/usg_par_quickstart.yaml"]
    options, overrides = [a for a in arguments if a.startswith("--")], [a for a in arguments if not a.startswith("--")]
    words = [*command, *options, "OUTPUT_DIR", output, *SMALL, *overrides]
    return run(*words, env={"DETECTRON2_DATASETS": str(datasets)})


def read_metrics(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(datasets, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run")
    done = train_net(datasets, output, "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    (output / "stdout.txt").write_text(done.stdout)
    return output


def test_the_terminal_gets_a_summary_progress_and_the_main_numbers(trained):
    lines = (trained / "stdout.txt").read_text().splitlines()
    assert len(lines) < 40
    shown = dict(line.strip().split("  ", 1) for line in lines if line.startswith("  "))
    assert shown["recipe"].strip() == "configs/quickstart/usg_par_quickstart.yaml"
    assert shown["training data"].strip() == "psg_shapes_train (8 images): 9 classes, 8 predicates"
    assert shown["evaluation"].strip() == "psg_shapes_val (4 images): 9 classes, 8 predicates; after the last step"
    assert shown["steps"].strip() == "4 of 2 images, 1.0 epochs"
    assert shown["output"].strip().startswith(str(trained)) and "million parameters trained" in shown["model"]
    progress = [line for line in lines if line.startswith("step ")]
    assert progress[0].startswith("step 1 of 4   loss ") and progress[-1].startswith("step 4 of 4   loss ")
    header = next(line for line in lines if line.startswith("| protocol"))
    assert "R@50" in header and "mR@50" in header and any(line.startswith("| single ") for line in lines)
    log = (trained / "log.txt").read_text()
    assert "psg_shapes_train (8 images)" in log and "BASE_LR" in log and "NgmR" in log


def test_training_writes_checkpoints_metrics_and_the_evaluation(trained):
    assert (trained / "last_checkpoint").read_text() == "model_final.pth"
    assert {"model_0000001.pth", "model_final.pth", "config.yaml"} <= {f.name for f in trained.iterdir()}
    assert list(trained.glob("events.out.tfevents.*"))
    metrics = read_metrics(trained)
    assert 3 in {row["iteration"] for row in metrics}
    names = {key for row in metrics for key in row}
    for term in ("loss_class", "loss_mask", "loss_dice", "loss_pair", "loss_predicate", "loss_class_0", "total_loss"):
        assert term in names
    first = next(row for row in metrics if "sanity/gt_objects" in row)
    assert first["sanity/matched_queries"] == first["sanity/gt_objects"] > 0
    assert 0 <= first["sanity/pair_recall_in_top_k"] <= 100
    assert any(key.endswith("single/R@50") for key in names)
    data = torch.load(trained / "model_final.pth", weights_only=True)
    assert data["iteration"] == 3 and data["trainer"]["_trainer"]["optimizer"]["state"]


def test_resume_continues_where_it_stopped(datasets, trained, tmp_path):
    for name in ("model_0000001.pth", "config.yaml", "metrics.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    done = train_net(datasets, tmp_path, "--resume", "SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"starts from    {tmp_path}/model_0000001.pth, after step 2" in done.stdout
    assert "3 to 4 of 2 images" in done.stdout


def test_eval_only_gives_the_metrics_of_the_end_of_training(datasets, trained, tmp_path):
    weights = ["MODEL.WEIGHTS", str(trained / "model_final.pth")]
    done = train_net(datasets, tmp_path, "--eval-only", *weights)
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads((tmp_path / "inference" / "sgdet_psg_shapes_val.json").read_text())["metrics"]
    before = json.loads((trained / "inference" / "sgdet_psg_shapes_val.json").read_text())["metrics"]
    assert again == before


def test_evaluation_needs_neither_the_training_data_nor_their_names(datasets, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets))
    register_psg("moved_away", tmp_path / "psg.json", tmp_path, "train")
    overrides = ["MODEL.WEIGHTS", str(trained / "model_final.pth"), "DATASETS.TRAIN", "('moved_away',)"]
    try:
        program = runpy.run_path(str(ROOT / "tools" / "train_net.py"))
        config = str(ROOT / "configs/quickstart/usg_par_quickstart.yaml")
        arguments = ["--eval-only", "--config-file", config, "OUTPUT_DIR", str(tmp_path / "run"), *SMALL, *overrides]
        assert program["main"](arguments) == 0
    finally:
        unregister_psg("moved_away")
    again = json.loads((tmp_path / "run/inference/sgdet_psg_shapes_val.json").read_text())
    before = json.loads((trained / "inference/sgdet_psg_shapes_val.json").read_text())
    assert again == before, "head, body and tail, too, are by the training data's counts, which the checkpoint has"


def test_vocabulary_file_in_another_order_gives_the_same_metrics(datasets, trained, tmp_path):
    names = json.loads((datasets / "psg_shapes" / "psg" / "psg.json").read_text())
    words = {key: names[key][::-1] for key in ("thing_classes", "stuff_classes", "predicate_classes")}
    path = tmp_path / "words.json"
    path.write_text(json.dumps(words | {"thing_classes": [*words["thing_classes"], "dragon"]}))
    overrides = ["MODEL.WEIGHTS", str(trained / "model_final.pth"), "MODEL.USG.VOCABULARY", str(path)]
    done = train_net(datasets, tmp_path, "--eval-only", *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 names of" in (tmp_path / "log.txt").read_text()
    again = json.loads((tmp_path / "inference" / "sgdet_psg_shapes_val.json").read_text())["metrics"]
    assert again == json.loads((trained / "inference" / "sgdet_psg_shapes_val.json").read_text())["metrics"]


def test_vocabulary_file_that_lacks_names_is_refused(datasets, tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"thing_classes": ["dragon"], "predicate_classes": ["greeting"]}))
    done = train_net(datasets, tmp_path, "--eval-only", f"--vocabulary={path}")
    assert done.returncode != 0 and "words.json lacks names of the data set 'psg_shapes_val'" in done.stderr
    done = train_net(datasets, tmp_path, "--eval-only", f"--vocabulary={tmp_path}/none.json")
    assert done.returncode == 2 and "none.json" in done.stderr and "Traceback" not in done.stderr


def test_exported_predictions_score_the_same_and_plots_are_drawn(datasets, trained, tmp_path):
    weights = ["MODEL.WEIGHTS", str(trained / "model_final.pth")]
    extras = ["TEST.USG.EXPORT", "json", "TEST.USG.PLOTS", "True", "TEST.USG.PICTURES", "1"]
    extras += ["TEST.USG.FREQUENCY_BASELINE", "True"]
    done = train_net(datasets, tmp_path, "--eval-only", *weights, *extras)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "inference" / "plots_psg_shapes_val").glob("*.png"))
    assert len(list((tmp_path / "inference" / "pictures_psg_shapes_val").glob("001_*.png"))) == 1
    exported = tmp_path / "inference" / "predictions_psg_shapes_val" / "predictions.json"
    command = ["tools/evaluate_predictions.py", "--gt", str(datasets / "psg_shapes/psg/psg.json")]
    command += ["--pred", str(exported), "--output", str(tmp_path / "again.json"), "--frequency-baseline"]
    command += ["--image-root", str(datasets / "psg_shapes" / "coco")]
    again = run(*command)
    assert again.returncode == 0, again.stderr
    before = json.loads((tmp_path / "inference" / "sgdet_psg_shapes_val.json").read_text())
    after = json.loads((tmp_path / "again.json").read_text())
    assert {"single/zR@50", "frequency/single/R@50"} <= before["metrics"].keys()
    assert before["metrics"] == after["metrics"], "head, body and tail, too, which training images decide in both"
    assert before["panoptic"] == after["panoptic"]

    names = json.loads((datasets / "psg_shapes" / "psg" / "psg.json").read_text())
    words = {key: names[key] for key in ("thing_classes", "stuff_classes", "predicate_classes")}
    words |= {"stuff_classes": [*words["stuff_classes"], "fog"]}
    (tmp_path / "words.json").write_text(json.dumps(words))
    program = runpy.run_path(str(ROOT / "tools" / "evaluate_predictions.py"))
    assert program["main"]([*command[1:], "--vocabulary", str(tmp_path / "words.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == after
    (tmp_path / "words.json").write_text(json.dumps(words | {"predicate_classes": ["greeting"]}))
    assert program["main"]([*command[1:], "--vocabulary", str(tmp_path / "words.json")]) == 2


def test_predicates_of_given_objects(datasets, trained, tmp_path):
    weights = ["MODEL.WEIGHTS", str(trained / "model_final.pth")]
    enough = ["MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS", "200"]  # for every pair of up to 14 objects
    done = train_net(datasets, tmp_path, "--eval-only", *weights, "TEST.TASK", "predcls", *enough)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "inference" / "predcls_psg_shapes_val.json").read_text())
    assert results["task"] == "predcls"
    assert results["metrics"]["oracle/pairs@200"] == 100.0, "every pair of given objects is proposed"
    assert results["metrics"]["single/PR@100"] > 90


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["SOLVER.MAX_ITERS", "4"], "did you mean SOLVER.MAX_ITER"),
        (["DATASETS.TEST", "('no_such_set',)"], "no_such_set"),
        (["MODEL.WEIGHTS", "/nonexistent/model.pth"], "/nonexistent/model.pth"),
        (["MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS", "9999"], "RPC.NUM_PAIRS: expected 1 to 240"),
    ],
    ids=["unknown key", "unknown data set", "no weights", "too many pairs"],
)
def test_wrong_arguments_are_named(datasets, tmp_path, overrides, message):
    done = train_net(datasets, tmp_path, "--eval-only", *overrides)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
