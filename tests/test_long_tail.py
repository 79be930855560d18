"""The options for rare predicates in a run: what each changes, what it leaves alone, and where the counts come from."""

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import Trainer, USGCheckpointer, adapt_to_machine
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.structures import TextEmbeddings
from usg_psg.training_counts import TRIPLETS_KEY

SMALL = ["SEED", "3", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "MODEL.USG.LOSS.NUM_POINTS", "128"]
SMALL += ["DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
LOSS, TEST = "MODEL.USG.LOSS.PREDICATE_", "TEST.USG.PREDICATE_LOGIT_ADJUSTMENT"
PRIOR = "TEST.USG.TRIPLET_PRIOR"


@pytest.fixture(scope="module", autouse=True)
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", num_train=24, num_val=2, size=(64, 96), preset="easy", seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        yield


def config(output: Path, *opts: str):
    cfg = build_cfg("quickstart/usg_par_quickstart.yaml", ["OUTPUT_DIR", str(output), *SMALL, *opts])
    adapt_to_machine(cfg)
    return cfg


def train(output: Path, *opts: str) -> dict[str, float]:
    """Losses of the first step."""
    torch.manual_seed(3)  # of the initial weights, as `setup_run` does
    trainer = Trainer(config(output, *opts))
    trainer.resume_or_load(resume=False)
    trainer.train()
    return json.loads((output / "losses.jsonl").read_text().splitlines()[0])


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, dict[str, float]]:
    output = tmp_path_factory.mktemp("plain")
    return output, train(output)


@pytest.mark.slow
@pytest.mark.parametrize("option", [(LOSS + "LOGIT_ADJUSTMENT", "1.0"), (LOSS + "BALANCE_BETA", "0.9")])
def test_an_option_of_the_loss_changes_the_predicate_loss_alone(plain, tmp_path, option):
    losses = train(tmp_path, *option)
    changed = {name for name, value in losses.items() if value != plain[1][name]}
    assert changed == {"loss_predicate", "loss_predicate_given", "total_loss"}


@pytest.mark.slow
def test_repeat_factors_change_which_images_come(plain, tmp_path):
    losses = train(
        tmp_path, "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.5"
    )
    assert losses["loss_class"] != plain[1]["loss_class"]


def loaded(cfg, weights: Path):
    """A model as evaluation makes it: the training data is not asked for."""
    cfg.DATASETS.TRAIN = ()
    model = build_model(cfg).eval()
    USGCheckpointer(model).load(str(weights))
    return model


@torch.no_grad()
def test_adjusting_afterwards_takes_the_counts_from_the_checkpoint(plain, tmp_path):
    weights = plain[0] / "model_final.pth"
    record = torch.load(weights, weights_only=True)["predicate_frequency"]
    share = dict(zip(record["names"], record["relations"], strict=True))
    seen = sum(count > 0 for count in share.values())
    before, after = loaded(config(tmp_path), weights), loaded(config(tmp_path, TEST, "1.5"), weights)
    image = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}]
    before.postprocessor.relations_per_image = after.postprocessor.relations_per_image = (
        10**6
    )  # all pairs and predicates
    one, other = before(image)[0], after(image)[0]
    rows = zip(*(one["pairs"][key].tolist() for key in ("subject", "object", "score")), strict=True)
    pairs = {(subject, object_): score for subject, object_, score in rows}
    names, scores = after.predicate_names, one["instances"].scores

    def probability(output: dict) -> dict[tuple[int, int, int], float]:
        rows = zip(*(output["relations"][k].tolist() for k in ("subject", "object", "predicate", "score")), strict=True)
        return {(s, o, p): v / float(scores[s] * scores[o] * pairs[s, o]) for s, o, p, v in rows}

    old, new = probability(one), probability(other)
    assert old.keys() == new.keys() and len(old) > 20
    for key, value in old.items():
        count = share[names[key[2]]]
        offset = 1.5 * math.log(count * seen / sum(share.values())) if count else 0.0
        odds = value / (1 - value) / math.exp(offset)
        assert new[key] == pytest.approx(odds / (1 + odds), rel=1e-3), names[key[2]]


@torch.no_grad()
def test_weights_without_counts_are_not_adjusted_silently(plain, tmp_path):
    data = torch.load(plain[0] / "model_final.pth", weights_only=True)
    del data[TRIPLETS_KEY]  # as older checkpoints
    torch.save(data, tmp_path / "older.pth")
    torch.save({"model": data["model"]}, tmp_path / "bare.pth")
    image = [{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}]
    loaded(config(tmp_path), tmp_path / "bare.pth")(image)
    with pytest.raises(ValueError, match="TEST.USG.PREDICATE_LOGIT_ADJUSTMENT"):
        loaded(config(tmp_path, TEST, "1.0"), tmp_path / "bare.pth")(image)
    loaded(config(tmp_path, TEST, "1.0"), tmp_path / "older.pth")(image)
    for name in ("bare.pth", "older.pth"):
        with pytest.raises(ValueError, match="TEST.USG.TRIPLET_PRIOR needs the training data's triplet counts"):
            loaded(config(tmp_path, PRIOR, "1.0"), tmp_path / name)(image)


@torch.no_grad()
@pytest.mark.parametrize("adjusted", ["0.0", "1.0"])
@pytest.mark.parametrize("task", ["sgdet", "predcls"])
def test_the_prior_is_a_factor_of_each_triplet_score(plain, tmp_path, task, adjusted):
    opts, weights = ("TEST.TASK", task, TEST, adjusted), plain[0] / "model_final.pth"
    before, after = (loaded(config(tmp_path, *opts, PRIOR, w), weights) for w in ("0.0", "1.5"))
    before.postprocessor.relations_per_image = after.postprocessor.relations_per_image = 10**6
    cfg = config(tmp_path, *opts)
    (inputs,) = next(iter(Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    one, other = before([inputs])[0], after([inputs])[0]
    classes = one["instances"].pred_classes.tolist()
    share = after.training_counts.triplets.share()

    def scores(output: dict) -> dict[tuple[int, int, int], float]:
        rows = zip(*(output["relations"][k].tolist() for k in ("subject", "object", "predicate", "score")), strict=True)
        return {(s, o, p): v for s, o, p, v in rows}

    old, new = scores(one), scores(other)
    assert old.keys() == new.keys() and len(old) > 20
    for (s, o, p), value in old.items():
        assert new[s, o, p] == pytest.approx(value * (share[classes[s], classes[o], p] + 0.001) ** 1.5, rel=1e-4)
    assert torch.equal(one["pairs"]["score"], other["pairs"]["score"])


def test_the_prior_travels_in_a_folder_and_follows_the_names(plain, tmp_path, caplog):
    own = SceneGraphPredictor.from_pretrained(plain[0] / "model_final.pth", ["MODEL.DEVICE", "cpu", PRIOR, "1.0"])
    model = SceneGraphPredictor.from_pretrained(own.save_pretrained(tmp_path / "model")).model
    records = torch.load(plain[0] / "model_final.pth", weights_only=True)
    assert model.training_counts.records()[TRIPLETS_KEY] == records[TRIPLETS_KEY]
    objects, predicates = model.object_names, model.predicate_names
    subject, object_ = (x.flatten() for x in torch.meshgrid(*[torch.arange(len(objects))] * 2, indexing="ij"))
    table = model.postprocessor.prior(subject, object_).reshape(len(objects), len(objects), len(predicates))
    assert table.max() > table.min() > 0
    text = model.object_text, model.predicate_text, model.is_thing
    assert "average prior" not in caplog.text
    model.set_vocabulary(TextEmbeddings(*text, ("juggling", *predicates[:0:-1]), ("dragon", *objects[:0:-1])))
    swapped = model.postprocessor.prior(subject, object_).reshape(table.shape)
    assert torch.equal(swapped[1:, 1:, 1:], table.flip(0, 1, 2)[:-1, :-1, :-1])
    share = torch.from_numpy(model.training_counts.triplets.share()).float() + 0.001
    torch.testing.assert_close(swapped[0, 0, 0], share[-1, -1, -1])
    torch.testing.assert_close(swapped[0, 1, 1], share[-1, len(objects) - 1, len(predicates) - 1])
    assert "1 of" in caplog.text and "triplets with them take the average prior: juggling" in caplog.text
    model.set_vocabulary(TextEmbeddings(*text))
    assert model.postprocessor.prior(subject, object_).unique().numel() == 1, "names that are not known"


def test_training_counts_its_own_data(plain, tmp_path):
    """Fine-tuning from a checkpoint of other data keeps the new data's counts."""
    data = torch.load(plain[0] / "model_final.pth", weights_only=True)
    own = data["predicate_frequency"]
    data["predicate_frequency"] = {**own, "relations": [count + 1 for count in own["relations"]]}
    torch.save(data, tmp_path / "other.pth")
    trainer = Trainer(config(tmp_path / "run", "MODEL.WEIGHTS", str(tmp_path / "other.pth")))
    trainer.resume_or_load(resume=False)
    assert trainer.model.training_counts.records()["predicate_frequency"] == own


def test_another_vocabulary_and_back(plain, tmp_path):
    model = loaded(config(tmp_path, TEST, "1.0"), plain[0] / "model_final.pth")
    text, tail = (model.object_text, model.predicate_text, model.is_thing), model.postprocessor
    own = tail.log_share.clone()
    names = ["juggling", *model.predicate_names[:0:-1]]
    model.set_vocabulary(TextEmbeddings(*text, names))
    assert tail.log_share[0] == 0, "a name that training did not know"
    assert torch.equal(tail.log_share[1:], own[1:].flip(0))
    with pytest.raises(ValueError, match="predicate_names"):
        TextEmbeddings(*text, names[1:])
    model.set_vocabulary(TextEmbeddings(*text))
    assert not tail.log_share.any(), "names that are not known"
    assert own.any()
