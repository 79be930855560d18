"""Generated scenes in the place of PSG and COCO, and the recipes on PSG at a size that a test can afford."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from usg_psg.data import PSG_VOCABULARY
from usg_psg.data.psg_shapes import generate_psg_shapes

from .pretrained.foreign import fcclip_shapes, random_weights

WIDTH, QUERIES, TEXT_WIDTH = 32, 12, 64
CHANNELS = {0: 256, 1: 128, 2: 64, "adapter": 32}  # of usg_convnext_zepto
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.CLIP.NAME": "usg_convnext_zepto",
    "MODEL.CLIP.PRETRAINED": "",
    "MODEL.CLIP.OBJECT_TEMPLATES": "['{}']",
    "MODEL.CLIP.PREDICATE_TEMPLATES": "['{}']",
    "MODEL.USG.HIDDEN_DIM": str(WIDTH),
    "MODEL.USG.PIXEL_DECODER.NUM_LAYERS": "1",
    "MODEL.USG.PIXEL_DECODER.FFN_DIM": "32",
    "MODEL.USG.MASK_DECODER.FFN_DIM": "32",
    "MODEL.USG.MASK_DECODER.NUM_QUERIES": str(QUERIES),
    "MODEL.USG.RELATION_HEAD.NUM_LAYERS": "1",
    "MODEL.USG.RELATION_HEAD.FFN_DIM": "32",
    "MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS": "30",
    "MODEL.USG.LOSS.NUM_POINTS": "64",
    "INPUT.USG.IMAGE_SIZE": "64",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.MAX_SIZE_TEST": "64",
    "DATALOADER.NUM_WORKERS": "0",
    "SOLVER.REFERENCE_WORLD_SIZE": "0",
    "SOLVER.IMS_PER_BATCH": "2",
    "SEED": "0",
}


def words(settings: dict[str, str]) -> list[str]:
    """Overrides on a command line."""
    return [word for pair in settings.items() for word in pair]


def make_datasets(root: Path, num_train: int = 8, num_val: int = 3) -> None:
    """coco/ and psg/psg.json as PSG's users have them, with PSG's names, and COCO's annotation of the same pictures."""
    generate_psg_shapes(
        root / "psg_shapes", num_train=num_train, num_val=num_val, size=(96, 128), preset="psg", seed=0, num_workers=0
    )
    for name in ("coco", "psg"):
        (root / name).symlink_to(root / "psg_shapes" / name)
    records = json.loads((root / "psg" / "psg.json").read_text())["data"]
    folder = root / "coco" / "annotations"
    folder.mkdir()
    for split in ("train2017", "val2017"):
        chosen = [record for record in records if record["file_name"].startswith(split)]
        (folder / f"panoptic_{split}.json").write_text(json.dumps(as_coco(chosen)))


def as_coco(records: list[dict]) -> dict:
    """Records of a PSG file as COCO's panoptic annotation, whose category ids have gaps and begin at 1."""
    images, annotations = [], []
    for record in records:
        image = {"id": int(record["image_id"]), "file_name": Path(record["file_name"]).name}
        images.append(image | {"height": record["height"], "width": record["width"]})
        segments = []
        for segment, annotation in zip(record["segments_info"], record["annotations"], strict=True):
            x0, y0, x1, y1 = annotation["bbox"]
            numbers = {"category_id": 2 * segment["category_id"] + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            segments.append({key: segment[key] for key in ("id", "iscrowd", "area")} | numbers)
        png = Path(record["pan_seg_file_name"]).name
        annotations.append({"image_id": image["id"], "file_name": png, "segments_info": segments})
    categories = [
        {"id": 2 * number + 1, "name": name, "isthing": int(number < 80)}
        for number, name in enumerate(PSG_VOCABULARY.object_classes)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_fcclip(path: Path) -> None:
    """A checkpoint under FC-CLIP's names that fits `SMALL`."""
    shapes = fcclip_shapes(WIDTH, 9, QUERIES + 3, backbone=False, ffn=32)
    root = "sem_seg_head.pixel_decoder"
    for name in shapes:
        if name.startswith(f"{root}.input_proj.") and len(shapes[name]) == 4:
            shapes[name] = (WIDTH, CHANNELS[int(name.split(".")[3])], 1, 1)
    shapes[f"{root}.adapter_1.weight"] = (WIDTH, CHANNELS["adapter"], 1, 1)
    for name in list(shapes):
        if name.startswith(f"{root}.transformer.encoder") and "linear" in name:
            shapes[name] = tuple(32 if size == 16 else size for size in shapes[name])
        if name.startswith("sem_seg_head.predictor.class_embed.layers.2"):
            shapes[name] = (TEXT_WIDTH, *shapes[name][1:])
    torch.save({"model": random_weights(shapes)}, path)
