"""Published checkpoint files are read without running code; tools/convert_checkpoint.py as a user runs it."""

import collections
import pickle
import runpy
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import save_file

from usg_psg.config import build_cfg
from usg_psg.engine import USGCheckpointer
from usg_psg.pretrained.convert import convert, target_model
from usg_psg.pretrained.foreign_checkpoint import read_foreign, write_converted

from .. import programs
from ..programs import exit_status
from .foreign import fcclip_shapes, mask2former_shapes, random_weights

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "configs/quickstart/usg_par_quickstart.yaml"
SIZES = {
    "MODEL.USG.HIDDEN_DIM": "32",
    "MODEL.USG.PIXEL_DECODER.NUM_LAYERS": "6",
    "MODEL.USG.PIXEL_DECODER.NUM_HEADS": "8",
    "MODEL.USG.PIXEL_DECODER.FFN_DIM": "24",
    "MODEL.USG.MASK_DECODER.NUM_LAYERS": "9",
    "MODEL.USG.MASK_DECODER.NUM_HEADS": "8",
    "MODEL.USG.MASK_DECODER.FFN_DIM": "48",
    "MODEL.USG.MASK_DECODER.NUM_QUERIES": "12",
    "MODEL.USG.MASK_DECODER.LAYER_ORDER": "cross_first",
    "DATASETS.TRAIN": "('psg_train',)",  # its names are built in: no data is needed
    "MODEL.DEVICE": "cpu",
}


def options(**changes: str) -> list[str]:
    return [word for pair in (SIZES | changes).items() for word in pair]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return random_weights(mask2former_shapes(32, 9, 15, ffn=48))


def write(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".pkl":
        arrays = collections.OrderedDict((name, value.numpy()) for name, value in weights.items())
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody", "matching_heuristics": True}, 2))
    elif path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"model": weights, "iteration": 7}, path)
    return path


def run(*arguments: object) -> subprocess.CompletedProcess:
    return programs.run("tools/convert_checkpoint.py", *arguments)


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
def test_files_are_read_bit_for_bit(tmp_path, weights, suffix):
    read = read_foreign(write(tmp_path / f"published{suffix}", weights))
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], value) for name, value in weights.items())


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    path = tmp_path / "published.pkl"
    data = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(2.5), "c": np.zeros((0, 2))}
    path.write_bytes(pickle.dumps(data, protocol))
    read = read_foreign(path)
    assert torch.equal(read["a"], torch.arange(6.0).view(2, 3)) and read["b"] == 2.5 and read["c"].shape == (0, 2)


class Runs:
    """A pickle of it would create the file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_no_code_runs_from_a_file(tmp_path, suffix):
    path, mark = tmp_path / f"published{suffix}", tmp_path / "mark"
    content = {"model": {"a": Runs(mark)}}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    mark.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=f"published{suffix} cannot be read"):
        read_foreign(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "cannot be read"),
        (pickle.dumps([1, 2]), "expected weights by name, got list"),
        (pickle.dumps({"model": {}}), "expected weights by name"),
        (pickle.dumps({"model": {"x.weight": "text"}}), "x.weight: expected an array of numbers, got str"),
        (pickle.dumps({"model": {"x.weight": np.array([1.0, np.nan])}}), "x.weight: holds values that are not finite"),
        (pickle.dumps({"model": {"x.weight": np.array(["a"], dtype=object)}}), "x.weight: expected an array"),
    ],
)
def test_unusable_files_are_named(tmp_path, content, message):
    path = tmp_path / "published.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"published.pkl.*{message}"):
        read_foreign(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_converted_file_is_loaded_and_the_rest_stays(tmp_path, weights, suffix):
    cfg = build_cfg(RECIPE, options())
    made = convert(weights, "mask2former", target_model(cfg))
    path = tmp_path / f"init{suffix}"
    write_converted(path, made)
    model = build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    USGCheckpointer(model).load(str(path))
    for name, value in model.state_dict().items():
        assert torch.equal(value, made.weights.get(name, before[name])), name
    root = "sem_seg_head.predictor.transformer_ffn_layers.8.linear1.weight"
    assert torch.equal(model.state_dict()["mask_decoder.layers.8.ffn.linear1.weight"], weights[root])

    other = build_model(build_cfg(RECIPE, options(**{"MODEL.USG.MASK_DECODER.LAYER_ORDER": "self_first"})))
    with pytest.raises(ValueError, match="LAYER_ORDER 'self_first', converted for 'cross_first'"):
        USGCheckpointer(other).load(str(path))


def test_program_converts_and_reports(tmp_path, weights):
    published, output = write(tmp_path / "published.pkl", weights), tmp_path / "made" / "init.safetensors"
    common = ["--source", "mask2former", "--input", published, "--output", output, "--config-file", RECIPE]
    done = run(*common, "--queries", "0-9,13-14", "--opts", *options())
    assert done.returncode == 0, done.stderr
    assert "classifier of a closed vocabulary" in done.stdout and "decoder layers 0-8, queries 0-9,13-14" in done.stdout
    model = build_model(build_cfg(RECIPE, options()))
    USGCheckpointer(model).load(str(output))
    rows = weights["sem_seg_head.predictor.query_feat.weight"][[*range(10), 13, 14]]
    assert torch.equal(model.mask_decoder.query_feat.weight, rows)
    assert [f.name for f in output.parent.iterdir()] == ["init.safetensors"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--input", "none.pkl"], "there is no checkpoint none.pkl"),
        (["--output", "init.txt"], "init.txt: expected a file .pth or .safetensors"),
        (["--source", "fcclip"], "backbone.stem.conv1.weight: no rule knows this name"),
        (["--with-backbone"], "has no OpenCLIP backbone"),
        (["--layers", "0,2,1,3,4,5,6,7,8"], "layer 2 attends to level 2, but layer 1 here to level 1"),
        (["--layers", "a"], "expected numbers such as 0,1,5-7"),
    ],
)
def test_program_names_what_is_wrong(tmp_path, weights, capsys, arguments, message):
    published = write(tmp_path / "published.pkl", weights)
    common = ["--source", "mask2former", "--input", str(published), "--output", str(tmp_path / "init.pth")]
    program = runpy.run_path(str(ROOT / "tools" / "convert_checkpoint.py"))
    command = [*common, "--config-file", str(ROOT / RECIPE), *arguments, "--opts", *options()]
    assert exit_status(program["main"], command) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last and message in last
    assert not (tmp_path / "init.pth").exists()


@pytest.mark.slow
@pytest.mark.nightly
def test_fcclip_at_full_size(tmp_path):
    """Published size under published names, with the trunk, into the model of the specification."""
    cfg = build_cfg("psg/usg_par_convnext_large.yaml", ["MODEL.CLIP.PRETRAINED", "", "MODEL.DEVICE", "cpu"])
    weights = random_weights(
        {k: v for k, v in fcclip_shapes().items() if not k.startswith("backbone.clip_model.token")}
    )
    made = convert(weights, "fcclip", target_model(cfg), with_backbone=True)
    write_converted(tmp_path / "init.safetensors", made)
    model = build_model(cfg)
    USGCheckpointer(model).load(str(tmp_path / "init.safetensors"))
    for name, value in model.state_dict().items():
        assert name not in made.weights or torch.equal(value, made.weights[name]), name
