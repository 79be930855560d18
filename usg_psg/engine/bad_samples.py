"""DATALOADER.BAD_SAMPLES in training: the policy while a loader is built, and the account at the end."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import HookBase

from ..data import PSGDatasetMapper, bad_record_policy
from ..data.left_out import LeftOutImages

logger = logging.getLogger(__name__)


def build_psg_train_loader(cfg: CfgNode):
    """Training batches of `PSGDatasetMapper`; DATALOADER.BAD_SAMPLES says what a bad record or picture causes.

    The mapper's list of images that are left out becomes the loader's attribute `left_out` (None with "error").
    """
    with bad_record_policy(cfg.DATALOADER.BAD_SAMPLES):
        mapper = PSGDatasetMapper(cfg, is_train=True)
        loader = build_detection_train_loader(cfg, mapper=mapper)
    loader.left_out = mapper.left_out
    return loader


class LeftOutReport(HookBase):
    """Logs at the end of training, also of one that failed, how many images were left out and the first of them.

    Each process counts the images that its own loader met.

    Args:
        left_out: the loader's list; None if it leaves nothing out.
    """

    def __init__(self, left_out: LeftOutImages | None):
        self.left_out = left_out

    def after_train(self) -> None:
        """Log the summary."""
        if self.left_out is not None and (summary := self.left_out.summary()):
            logger.warning("%s", summary)
