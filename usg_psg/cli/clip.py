"""Trains a small CLIP model on captions made from annotated images."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align
from tqdm import tqdm

from ..data import load_psg_json
from ..data.annotation import read_annotation
from ..data.captions import CaptionedWindows
from ..data.psg_json import open_psg
from ..images import read_image
from ..modeling.clip_ensemble import CLIPVisualHead
from ..modeling.openclip import load_openclip
from ..modeling.openclip_convnext import OpenCLIPConvNeXt
from ..modeling.text_embeddings import OpenCLIPText, encode_names
from ..utils.files import write_whole

LEARNING_RATE, WEIGHT_DECAY, WARMUP = 1e-3, 0.05, 0.1  # the last: part of the steps
MAX_LOG_SCALE = math.log(100)  # as in CLIP
TEMPLATES = ("a photo of a {}.",)
NUM_CHECKED = 200  # images


def run(args: Namespace) -> None:
    """Train, write the weights, and say how well the frozen features tell classes apart."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    json_file, images = args.data / "psg" / "psg.json", args.data / "coco"
    vocabulary = open_psg(json_file).vocabulary
    windows = CaptionedWindows(load_psg_json(json_file, images, "trainval"), vocabulary)
    clip = load_openclip(args.model).to(device)
    tokenizer = open_clip.get_tokenizer(args.model)
    train(clip, tokenizer, windows, args.steps, args.batch_size, args.image_size, args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.cpu() for name, value in clip.state_dict().items()}
    write_whole(args.output, lambda file: torch.save(weights, file))
    text = encode_names(OpenCLIPText(clip, tokenizer), vocabulary.object_classes, TEMPLATES).to(device)
    if records := load_psg_json(json_file, images, "test")[:NUM_CHECKED]:
        right, total = count_named(clip, text, records)
        where = f"segments of {len(records)} other images"
        print(f"by its features inside their masks, CLIP names {right} of {total} {where}")
    print(f"MODEL.CLIP.NAME {args.model} MODEL.CLIP.PRETRAINED {args.output}")


def train(
    clip: open_clip.CLIP,
    tokenizer: Callable,
    windows: CaptionedWindows,
    steps: int,
    batch_size: int,
    image_size: int,
    seed: int = 0,
) -> list[float]:
    """Train a CLIP model in place, with OpenCLIP's loss, AdamW, and a cosine schedule after a warm-up.

    Args:
        clip: on the device to train on.
        tokenizer: its tokenizer.
        windows: pictures and captions.
        steps, batch_size: of training.
        image_size: side that windows are scaled to, pixels.
        seed: of the windows.

    Returns:
        the loss of every tenth step.
    """
    device = next(clip.parameters()).device
    rng, loss_of, losses = np.random.default_rng(seed), open_clip.ClipLoss(), []
    tokens_of = lru_cache(maxsize=None)(lambda text: tokenizer([text])[0])
    decayed = [p for p in clip.parameters() if p.ndim > 1]
    others = [p for p in clip.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, steps, pct_start=WARMUP, cycle_momentum=False
    )
    pictures = windows.pictures.to(device)
    clip.train().to(memory_format=torch.channels_last)
    for step in (bar := tqdm(range(steps), unit="step")):
        image, boxes, captions = windows.sample(batch_size, rng)
        text = torch.stack([tokens_of(caption) for caption in captions]).to(device)
        cut = cut_windows(pictures[image.to(device)], boxes.to(device), image_size)
        cut = cut.flip(-1) if step % 2 else cut
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(*clip(cut, text))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(max=MAX_LOG_SCALE)
        if step % 10 == 0:
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.2f}", refresh=False)
    clip.eval()
    return losses


def normalized(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) colours of 0 to 255, as OpenCLIP's models take them."""
    mean, std = (255 * torch.tensor(v, device=pixels.device)[:, None, None] for v in _MEAN_AND_STD)
    return (pixels.float() - mean) / std


_MEAN_AND_STD = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def cut_windows(pictures: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut a window out of each picture and scale it.

    Args:
        pictures: (B, 3, S, S) uint8.
        boxes: (B, 4) x0, y0, x1, y1 in pixels.
        side: of the result, pixels.

    Returns:
        (B, 3, side, side) float32, normalised; zeros outside of the pictures.
    """
    rois = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None].float(), boxes], dim=1)
    cut = roi_align(normalized(pictures), rois, side, aligned=True)
    return cut.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def count_named(clip: open_clip.CLIP, text: Tensor, records: Sequence[dict]) -> tuple[int, int]:
    """Let CLIP name annotated segments by its features inside their masks, as `CLIPEnsemble` does with predicted ones.

    Args:
        clip: model with a timm ConvNeXt, whose weights are frozen by this.
        text: (C, T) embeddings of the classes.
        records: dataset dicts of images with these classes.

    Returns:
        segments that got their class, and all that cover half of a cell of the last features.
    """
    head = CLIPVisualHead(clip.visual, clip.logit_scale).to(text.device)
    backbone = OpenCLIPConvNeXt(clip.visual.trunk, frozen_dtype="float32", visual_head=head)
    stride, right, total = backbone.size_divisibility, 0, 0
    for record in records:
        labels, _, label_map, _ = read_annotation(record)
        image = torch.from_numpy(read_image(record["file_name"])).to(text.device).permute(2, 0, 1)
        masks = torch.from_numpy(label_map.astype(np.int64)).to(text.device)
        masks = (masks == torch.arange(1, len(labels) + 1, device=text.device)[:, None, None]).float()
        padding = (0, -image.shape[-1] % stride, 0, -image.shape[-2] % stride)
        inside = F.avg_pool2d(F.pad(masks, padding), stride) >= 0.5
        dense = backbone(F.pad(normalized(image), padding)[None])["res5"]
        visible = inside.flatten(1).any(dim=1).cpu().numpy()
        named = head(dense, inside[None], text)[0].argmax(dim=-1).cpu().numpy()
        right, total = right + int((named == labels)[visible].sum()), total + int(visible.sum())
    return right, total
