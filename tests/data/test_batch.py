"""Batches between processes: every tensor arrives as it was, all of them in one block of memory."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from usg_psg.data.batch import Batch
from usg_psg.structures import SegmentMasks


@pytest.fixture
def batch():
    masks = SegmentMasks(torch.tensor([[[0, 1], [2, 2]]], dtype=torch.uint8), torch.tensor([1, 2]))
    samples = [
        {
            "image": torch.arange(24, dtype=torch.uint8).view(3, 2, 4)[:, :, ::2],  # not contiguous
            "instances": Instances((2, 2), gt_classes=torch.tensor([3, 1]), gt_masks=masks),
            "relations": torch.zeros((0, 3), dtype=torch.int64),
            "map": np.arange(3),
            "weight": torch.tensor(0.5, dtype=torch.float64),
        },
        {"image": torch.full((3, 1, 1), 7, dtype=torch.uint8), "flags": torch.tensor([True, False])},
    ]
    batch = Batch(samples)
    batch.skipped = [("1", "damaged", "")]
    return batch


def test_a_batch_arrives_as_it_was(batch):
    arrived = pickle.loads(pickle.dumps(batch))
    assert type(arrived) is Batch and arrived.skipped == batch.skipped and len(arrived) == 2
    for sample, sent in zip(arrived, batch, strict=True):
        assert list(sample) == list(sent)
        for key in sample.keys() - {"instances", "map"}:
            assert sample[key].dtype == sent[key].dtype and torch.equal(sample[key], sent[key]), key
    assert arrived[0]["map"].tolist() == [0, 1, 2]
    assert torch.equal(arrived[0]["instances"].gt_masks.tensor, batch[0]["instances"].gt_masks.tensor)
    assert arrived[0]["instances"].gt_classes.tolist() == [3, 1]


def test_its_tensors_share_one_block(batch):
    arrived = pickle.loads(pickle.dumps(batch))
    tensors = [arrived[0]["image"], arrived[0]["weight"], arrived[0]["instances"].gt_masks.maps, arrived[1]["flags"]]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
