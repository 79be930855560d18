"""PSG as a plain `torch.utils.data.Dataset`, SPEC section 15, for code that does not use Detectron2's loaders."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .psg_mapper import PSGDatasetMapper


class PSGDataset(Dataset):
    """Images with their segments and relations, in the frame of the image.

    Args:
        dataset_dicts: as `load_psg_json` or `DatasetCatalog.get` returns them.
        mapper: yields image, instances and relations of a dict; by default nothing is resized.
    """

    def __init__(self, dataset_dicts: Sequence[dict], mapper: Callable[[dict], dict] | None = None):
        self.dataset_dicts = dataset_dicts
        self.mapper = mapper or PSGDatasetMapper(is_train=True, augmentations=[])

    def __len__(self) -> int:
        return len(self.dataset_dicts)

    def __getitem__(self, index: int) -> dict[str, Tensor | list | str]:
        """One sample.

        Returns:
            image (3, H, W) uint8; gt_labels (N,) int64 category ids; gt_masks (N, H, W) bool; gt_relations, a list of
            (subject, object, predicate), 0-based positions in gt_labels and a predicate; image_id.
        """
        mapped = self.mapper(self.dataset_dicts[index])
        instances, masks = mapped["instances"], mapped["instances"].gt_masks
        return {
            "image": mapped["image"],
            "gt_labels": instances.gt_classes,
            "gt_masks": getattr(masks, "tensor", masks).to(torch.bool),
            "gt_relations": [tuple(row) for row in mapped["relations"].tolist()],
            "image_id": mapped["image_id"],
        }
