"""Losses in reduced precision, as far as a CPU can tell: the same casts as on a GPU, other kernels."""

import pytest
import torch

from usg_psg.losses import FixedMatcher

from ..tiny import tiny_input, tiny_model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_and_gradients_agree_with_float32(dtype):
    # Frozen, as in PSG's recipes: the trained miniature's own norm layer is not made for float16.
    model = tiny_model(num_points=0, freeze=True, pilot_noise=0.0)  # on all pixels, so that no random point differs
    model.criterion.matcher = FixedMatcher()  # nearly equal costs of an untrained model would be matched either way
    batch = [tiny_input(3), tiny_input(2)]
    losses, gradients = {}, {}
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            losses[enabled] = model(batch)
        assert all(value.dtype == torch.float32 for value in losses[enabled].values())
        sum(losses[enabled].values()).backward()
        gradients[enabled] = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    for name, value in losses[False].items():
        assert losses[True][name].item() == pytest.approx(value.item(), rel=0.03), name
    assert gradients[True].isfinite().all()
    cosine = torch.nn.functional.cosine_similarity(gradients[True], gradients[False], dim=0)
    assert cosine > 0.95, "the step goes the same way"


def test_what_is_sensitive_is_computed_in_float32():
    model = tiny_model()
    queries = torch.randn(2, 12, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.class_head(queries, model.object_text).dtype == torch.float32
        assert model.relation_head.propose(queries).pair_logits.dtype == torch.float32
