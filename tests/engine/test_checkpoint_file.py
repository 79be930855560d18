"""Checkpoint files that are damaged, malformed or of another kind: each is refused in one line that names it."""

import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from usg_psg.engine.checkpoint_file import read_checkpoint
from usg_psg.modeling.openclip import load_openclip
from usg_psg.pretrained.foreign_checkpoint import read_foreign
from usg_psg.training_counts import TripletCounts

from ..tiny import CLIP_NAME

WEIGHTS = {"a.weight": torch.arange(4096.0), "a.bias": torch.ones(3, dtype=torch.bfloat16)}


def save(path, weights, **entries):
    """In the format that the name says; "old.pth" is torch's of before 1.6, which is no archive."""
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        old = path.name == "old.pth"
        torch.save({"model": weights, **entries}, path, _use_new_zipfile_serialization=not old)
    return str(path)


def flip_a_byte(path: str) -> None:
    """In the middle of the largest part of an archive, which is the first tensor."""
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda x: x.file_size)
    with open(path, "r+b") as file:
        file.seek(part.header_offset + part.file_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", ["new.pth", "old.pth", "plain.safetensors"])
def test_sound_files_of_every_format_are_read(tmp_path, name, mmap):
    read = read_checkpoint(save(tmp_path / name, WEIGHTS), mmap=mmap)["model"]
    assert read.keys() == WEIGHTS.keys() and all(torch.equal(read[k], v) for k, v in WEIGHTS.items())


def test_a_flipped_byte_is_noticed(tmp_path):
    path = save(tmp_path / "model.pth", WEIGHTS)
    read_checkpoint(path)
    flip_a_byte(path)
    torch.load(path, weights_only=True)  # which does not
    for read in (read_checkpoint, read_foreign):
        with pytest.raises(ValueError, match="model.pth cannot be read: it is damaged: the checksum of its part"):
            read(path)


def test_a_flipped_byte_of_openclip_weights_is_noticed(tmp_path):
    path = str(tmp_path / "clip.pt")
    torch.save(load_openclip(CLIP_NAME).state_dict(), path)
    flip_a_byte(path)
    with pytest.raises(ValueError, match="MODEL.CLIP.PRETRAINED .*clip.pt cannot be read: it is damaged"):
        load_openclip(CLIP_NAME, path)


@pytest.mark.parametrize("name", ["new.pth", "old.pth", "plain.safetensors"])
@pytest.mark.parametrize("key, value", [("a.weight", torch.nan), ("a.weight", -torch.inf), ("a.bias", torch.inf)])
def test_values_that_are_not_finite(tmp_path, name, key, value):
    weights = {k: v.clone() for k, v in WEIGHTS.items()}
    weights[key][1] = value
    with pytest.raises(ValueError, match=f"{name}: {key} holds values that are not finite"):
        read_checkpoint(save(tmp_path / name, weights))
    if not name.endswith(".safetensors"):
        with pytest.raises(ValueError, match=f"{name}: {key} holds values that are not finite"):
            read_checkpoint(save(tmp_path / name, WEIGHTS, ema=weights))


@pytest.mark.parametrize("name", ["model", "model.ckpt", "model.pth.tar", "model.pkl"])
def test_unknown_formats_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name}: expected a file .pth, .pt, .bin, .safetensors"):
        read_checkpoint(str(tmp_path / name))


@pytest.mark.parametrize(
    "weights",
    [
        [1, 2],
        {},
        {1: torch.ones(1)},
        {"a": 1.0},
        {"a": torch.eye(2).to_sparse()},
        {"a": torch.ones(1, device="meta")},
        {"a": {"b": torch.ones(1)}},
    ],
    ids=["list", "empty", "number for name", "number", "sparse", "meta", "nested"],
)
def test_what_is_no_weights_is_refused(tmp_path, weights):
    with pytest.raises(ValueError, match="model.pth holds no weights: expected tensors by name"):
        read_checkpoint(save(tmp_path / "model.pth", weights))


FREQUENCY = {"names": ["on"], "relations": [1], "images": [1], "num_images": 1}
TRIPLETS = TripletCounts(("a",), ("on",), np.array([[0, 0, 0, 2]]), np.array([[3]])).record()
TRAINED_ON = {"data": {}, "text": {}, "phrases": {}}


@pytest.mark.parametrize(
    "key, value",
    [
        ("ema", [torch.ones(1)]),
        ("ema", {"a.weight": 1}),
        ("trainer", 3),
        ("frozen_backbone", "openclip"),
        ("frozen_backbone", {"model": 1}),
        ("conversion", []),
        ("conversion", {"layers": [1]}),
        ("predicate_frequency", 5),
        ("predicate_frequency", {"names": ["on"]}),
        ("predicate_frequency", FREQUENCY | {"relations": ["many"]}),
        ("predicate_frequency", FREQUENCY | {"relations": [1, 2]}),
        ("training_triplets", [1]),
        ("training_triplets", TRIPLETS | {"triplets": 3}),
        ("training_triplets", TRIPLETS | {"triplets": TRIPLETS["triplets"][:8]}),
        ("training_triplets", TRIPLETS | {"pairs": ""}),
        ("training_triplets", TRIPLETS | {"objects": ["a", "b"]}),
        ("training_triplets", TRIPLETS | {"predicates": []}),
        ("trained_on", "photographs"),
        ("trained_on", TRAINED_ON),
        ("trained_on", TRAINED_ON | {"data": [1]}),
    ],
)
def test_malformed_entries_are_named(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"model.pth, {key}: "):
        read_checkpoint(save(tmp_path / "model.pth", WEIGHTS, **{key: value}))
