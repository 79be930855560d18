"""`usg-psg clip`: from scenes to weights that a config takes."""

from __future__ import annotations

import torch

from usg_psg.cli.clip import count_named, cut_windows, normalized
from usg_psg.config import build_cfg
from usg_psg.config.checks import check_config
from usg_psg.data import load_psg_json
from usg_psg.data.psg_shapes import VOCABULARIES, generate_psg_shapes
from usg_psg.modeling.openclip import load_openclip
from usg_psg_cli import main

NAME = "usg_convnext_zepto"


def test_weights_that_a_config_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generate_psg_shapes(tmp_path / "psg_shapes", 6, 2, (64, 64), seed=1)
    weights = tmp_path / "out" / "clip.pt"
    words = ["clip", "--data", str(tmp_path / "psg_shapes"), "--output", str(weights), "--model", NAME]
    assert main([*words, "--steps", "2", "--batch-size", "8", "--image-size", "32"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert (
        printed[-1] == f"MODEL.CLIP.NAME {NAME} MODEL.CLIP.PRETRAINED {weights}" and "of 2 other images" in printed[-2]
    )
    trained, random = load_openclip(NAME, str(weights)), load_openclip(NAME)
    changed = [not torch.equal(a, b) for a, b in zip(trained.parameters(), random.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed), "both towers were trained"
    words = ["MODEL.CLIP.PRETRAINED", str(weights), "MODEL.CLIP.FREEZE", "True"]
    check_config(build_cfg("quickstart/usg_par_quickstart.yaml", words))


def test_windows_are_cut_where_their_boxes_are():
    pictures = torch.zeros(2, 3, 40, 40, dtype=torch.uint8)
    pictures[1, :, 8:16, 20:28] = 255
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0], [20.0, 8.0, 28.0, 16.0]])
    dark, light = cut_windows(pictures, boxes, 4)
    black, white = normalized(torch.zeros(3, 1, 1)), normalized(torch.full((3, 1, 1), 255.0))
    torch.testing.assert_close(dark, black.expand_as(dark))
    torch.testing.assert_close(light[:, 1:3, 1:3], white.expand(3, 2, 2))


def test_segments_that_are_named(tmp_path):
    """All texts are equal, so the first name wins everywhere."""
    json_file = generate_psg_shapes(tmp_path, 0, 3, (64, 80), seed=2)
    records = load_psg_json(json_file, tmp_path / "coco", "test")
    labels = [s["category_id"] for record in records for s in record["segments_info"]]
    clip, text = load_openclip(NAME), torch.zeros(len(VOCABULARIES["easy"].object_classes), 64)
    right, total = count_named(clip, text, records)
    assert right == labels.count(0) or right < total <= len(labels)
    assert total > 0
