"""Features of the next batch, computed while the host matches this one's objects: the same losses and weights."""

import itertools

import pytest
import torch
from detectron2.utils.events import EventStorage

from usg_psg.engine import GradientClipper, StepRunner
from usg_psg.modeling.compile import compile_parts
from usg_psg.utils.program import FAILED

from ..modeling.tape import TapeRecorder
from ..tiny import tiny_model
from .job import sample


class Batches:
    """Batches of two images, all of them different; a process of the loader dies once, if asked, before one of them."""

    seed = 0

    def __init__(self, dies_before: int = -1):
        self.dies_before = dies_before
        self.given: list[int] = []
        self.position = 0

    def __iter__(self):
        return self.batches()

    def batches(self, num_workers: int = 0):
        for number in itertools.count(self.position // 2):
            if number == self.dies_before:
                self.dies_before = -1
                raise ChildProcessError("a loader process was killed")
            self.given.append(number)
            yield [sample(number % 3), sample((number + 1) % 3)]

    def start_at(self, position, seed=None):
        self.position = position


def train(looks_ahead: bool, mode: str = "none", accumulation_steps: int = 1, steps: int = 4, **loader):
    torch.manual_seed(1)
    model = tiny_model(freeze=True, pilot_noise=0.1)
    compile_parts(model, mode, recorder_type=TapeRecorder)
    calls, backbone = [], model.backbone.forward
    model.backbone.forward = lambda images: calls.append(len(images)) or backbone(images)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    batches = Batches(**loader)
    runner = StepRunner(model, batches, optimizer, clipper=GradientClipper(), accumulation_steps=accumulation_steps)
    assert not runner.looks_ahead, "a CPU is never idle"
    runner.looks_ahead = looks_ahead
    losses, requests = [], []
    with EventStorage() as storage:
        for runner.iter in range(steps):
            runner.run_step()
            losses.append(storage.latest()["total_loss"][0])
            requests.append(runner.stop_request)
    return losses, [p.detach() for p in model.parameters()], calls, batches.given, requests


@pytest.mark.parametrize(("mode", "accumulation_steps"), [("none", 1), ("graphs", 1), ("none", 2)])
def test_losses_and_weights_are_the_same(mode, accumulation_steps):
    losses, weights, calls, _, _ = train(False, mode, accumulation_steps)
    others, other_weights, other_calls, given, _ = train(True, mode, accumulation_steps)
    assert len(set(losses)) == 4 and losses == others
    assert all(torch.equal(one, other) for one, other in zip(weights, other_weights, strict=True))
    assert len(other_calls) == len(calls) + 1, "each batch once, and the one after the last step"
    assert given == list(range(len(other_calls)))


def test_a_loader_that_dies_meanwhile_is_the_next_steps_matter():
    losses, *_ = train(False)
    others, _, calls, given, requests = train(True, dies_before=2)
    assert others == losses
    assert requests == [0, 0, FAILED, FAILED], "found while the second step matched, said in the third"
    assert given == [0, 1, 2, 3, 4] and len(calls) == 5


def test_only_what_is_frozen_is_asked_before_its_turn():
    assert tiny_model(freeze=True).has_frozen_backbone and not tiny_model().has_frozen_backbone
