"""Recorded parts compute what the parts compute: on a GPU as CUDA graphs, on the CPU on a stand-in for them."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from usg_psg.modeling.compile import MODES, compile_parts
from usg_psg.modeling.cuda_graphs import GraphedFunction

from ..tiny import tiny_input, tiny_model

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """The postprocessor looks at no values, as it must not where it is recorded."""
    for module in ("panoptic", "postprocess"):
        monkeypatch.setattr(f"usg_psg.inference.{module}.is_at_hand", lambda _: False)


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.unused = nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, features, mask=None):
        self.calls += 1
        y = self.linear(features["x"]).relu()
        if mask is not None:
            y = y * mask
        return {"y": y, "best": y.argmax(-1)}, [features["x"] * 2]


def graphed(part, recorder):
    return GraphedFunction(part.forward, part, recorder_type=recorder)


def test_values_and_gradients_follow_arguments_and_weights(device, recorder):
    part = Part().to(device)
    other = copy.deepcopy(part)
    function = graphed(part, recorder)
    for step in range(4):
        results = []
        for call, module in ((function, part), (other, other)):
            torch.manual_seed(step)
            x = torch.randn(2, 4, device=device, requires_grad=True)
            out, (double,) = call({"x": x}, torch.arange(4.0, device=device) if step % 2 else None)
            assert out["best"].dtype == torch.int64 and not out["best"].requires_grad
            (out["y"].square().sum() + double.sum()).backward()
            grads = [x.grad, *(p.grad for p in module.linear.parameters())]
            assert module.unused.grad is None
            results.append([t.detach().clone() for t in (out["y"], out["best"], double, *grads)])
            with torch.no_grad():
                for p in module.linear.parameters():
                    p -= 0.1 * p.grad  # in place: the recording sees it
                    p.grad = None
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    calls = part.calls
    function({"x": torch.ones(2, 4, device=device, requires_grad=True)}, None)
    assert part.calls == calls, "nothing but the first calls runs the module itself"


@pytest.mark.parametrize("mode", ["none", "graphs"])
def test_cudnn_computes_attention_outside_of_training_where_it_is_recorded_alone(mode, device, recorder, monkeypatch):
    model = tiny_model().to(device).eval()
    allowed, attend = [], torch.nn.functional.scaled_dot_product_attention

    def noted(*args):
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attend(*args)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    compile_parts(model, "none", mode, recorder)
    with torch.no_grad():
        model([tiny_input()])
    assert allowed and any(allowed) == (mode == "graphs")
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_an_output_without_a_gradient_counts_as_zero(device, recorder):
    function = graphed(Part().to(device), recorder)
    for use_both in (True, False, True):
        x = torch.randn(2, 4, device=device, requires_grad=True)
        out, (double,) = function({"x": x})
        (double.sum() + (out["y"].sum() if use_both else 0)).backward()
        assert torch.equal(x.grad, torch.full_like(x, 2)) != use_both or not out["y"].any()


def test_outside_of_training_nothing_is_kept_for_gradients(device, recorder):
    part = Part().to(device)
    function = graphed(part, recorder)
    with torch.no_grad():
        for _ in range(2):
            x = torch.randn(3, 4, device=device)
            out, _ = function({"x": x})
            torch.testing.assert_close(out["y"], part({"x": x})[0]["y"])
            assert not out["y"].requires_grad


def test_each_shape_is_recorded_and_too_many_are_not(device, recorder, caplog):
    caplog.set_level("INFO", logger="usg_psg")
    part = Part().to(device)
    function = graphed(part, recorder)
    for _ in range(2):
        for rows in range(1, function.MAX_SHAPES + 3):
            x = torch.randn(rows, 4, device=device)
            torch.testing.assert_close(function({"x": x})[0]["y"], part({"x": x})[0]["y"])
    assert caplog.text.count("further ones run without CUDA graphs") == 1


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def test_random_numbers_of_a_step_do_not_depend_on_recording(device, recorder):
    function, numbers = graphed(Noise(), recorder), []
    for _ in range(3):
        torch.manual_seed(0)
        noisy = function(torch.zeros(2, 4, device=device)).clone()
        numbers.append(torch.stack([noisy, torch.rand(2, 4, device=device)]))
    assert torch.equal(numbers[0], numbers[1]) and torch.equal(numbers[1], numbers[2])
    assert len(numbers[0].unique()) == numbers[0].numel()


def test_what_needs_a_gradient_is_part_of_what_is_recorded(device, recorder):
    part = Part().to(device)
    function = graphed(part, recorder)
    for needs, enabled in [(False, False), (False, True), (True, True), (True, False)]:
        x = torch.randn(2, 4, device=device, requires_grad=needs)
        with torch.set_grad_enabled(enabled):
            out, (double,) = function({"x": x})
        assert out["y"].requires_grad == enabled
        assert double.requires_grad == (needs and enabled)
        if enabled:
            out["y"].sum().backward()
            part.zero_grad()
        assert (x.grad is not None) == (needs and enabled)


class Difference(nn.Module):
    def forward(self, values):
        return values["a"] - values["b"]


def test_arguments_are_told_apart_by_name(device, recorder):
    function = graphed(Difference(), recorder)
    one, two = (torch.full((2,), value, device=device) for value in (1.0, 2.0))
    assert function({"a": one, "b": two}).tolist() == [-1, -1]
    assert function({"b": one, "a": two}).tolist() == [1, 1]


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(0)


def test_results_of_other_shapes_are_left_as_they_are(device, recorder):
    """Two recordings of one part, whose results have one shape, before a part that reads them where they lie."""
    plain, fixed = nn.Linear(4, 4).to(device), set()
    mean, linear = (GraphedFunction(part.forward, part, fixed, recorder) for part in (Mean(), plain))
    for _ in range(2):
        given = [torch.randn(rows, 4, device=device) for rows in (2, 3)]
        means = [mean(x) for x in given]
        for x, found in zip(given, means, strict=True):
            torch.testing.assert_close(linear(found), plain(x.mean(0)))
        for x, found in zip(given, means, strict=True):
            torch.testing.assert_close(found, x.mean(0))


def test_a_backward_pass_belongs_to_the_latest_call(device, recorder):
    function = graphed(Part().to(device), recorder)
    x = torch.randn(2, 4, device=device, requires_grad=True)
    first, _ = function({"x": x})
    second, _ = function({"x": x})
    with pytest.raises(RuntimeError, match="one backward pass, before the next call"):
        first["y"].sum().backward()
    second["y"].sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        second["y"].sum().backward()


class Greedy(nn.Module):
    def forward(self, x):
        raise torch.cuda.OutOfMemoryError("allocation of 80 GiB")


def test_too_little_memory_keeps_its_kind(device, recorder):
    """Callers answer it in another way than a function that cannot be recorded."""
    with pytest.raises(torch.cuda.OutOfMemoryError, match="80 GiB"):
        graphed(Greedy(), recorder)(torch.ones(2, device=device))


@torch.no_grad()
def relations_of(model):
    torch.manual_seed(0)
    return [model.eval()([tiny_input(3)])[0]["relations"] for _ in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_missed_pairs": True, "freeze": True},
        {"freeze": True, "pilot_noise": 0.2},
        {"num_queries": 16, "deep_supervision": False, "pilot_noise": 0.2},  # as many queries as places for objects
    ],
    ids=str,
)
def test_the_model_trains_and_predicts_the_same(device, recorder, options):
    torch.manual_seed(0)
    plain, recorded = tiny_model(**options).to(device), tiny_model(**options).to(device)
    recorded.load_state_dict(plain.state_dict())
    compile_parts(recorded, "graphs", "graphs", recorder)
    histories = []
    for model in (plain, recorded):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01)
        history = []
        for step in range(3):
            torch.manual_seed(step)
            batch = [tiny_input(3), tiny_input(2)]  # another image and other objects in each step, of one shape
            model.train()
            losses = model(batch)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            history.append({name: loss.item() for name, loss in losses.items()})
        histories.append(history)
    for one, other in zip(*histories, strict=True):
        assert one == pytest.approx(other, rel=1e-4 if device == "cpu" else 5e-3)  # atomic sums vary
    # Those sums put ranks in another order, too. So the recording, made with its own weights, is given the other's.
    relations_of(recorded)
    recorded.load_state_dict(plain.state_dict())
    for one, other in zip(relations_of(plain), relations_of(recorded), strict=True):
        assert torch.equal(one["predicate"], other["predicate"])
        torch.testing.assert_close(one["score"], other["score"], rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_postprocessing_is_recorded_for_single_images(device, recorder, monkeypatch):
    torch.manual_seed(0)
    plain = tiny_model(object_threshold=0.0, overlap_threshold=0.1).to(device).eval()
    recorded = copy.deepcopy(plain)
    compile_parts(recorded, "none", "graphs", recorder)
    first, second = tiny_input(1), tiny_input(1)
    large, larger = ({**first, "height": side, "width": 2 * side} for side in (131, 200))
    monkeypatch.setattr("usg_psg.inference.postprocess.RECORDED_PIXELS", 12 * 131 * 262)
    batches = [[first], [second], [large], [first, second], [larger], [first], [second, first]]
    found = [recorded(batch) for batch in batches]  # compared when all are there: none lies where another came to lie
    assert len(recorded.postprocessor.segment._recordings) == 2, "not of batches, nor of the larger image"
    assert len(recorded.postprocessor.rank._recordings) == 2, "one for each number of images"
    for batch, outputs in zip(batches, found, strict=True):
        for output, expected in zip(outputs, plain(batch), strict=True):
            for name in ("pred_classes", "segment_ids"):
                assert torch.equal(output["instances"].get(name), expected["instances"].get(name))
            one, other = ((x["instances"].pred_masks, x["panoptic_seg"][0]) for x in (output, expected))
            assert all((a != b).float().mean() < 1e-3 for a, b in zip(one, other, strict=True)) and one[1].any()
            torch.testing.assert_close(output["relations"]["score"], expected["relations"]["score"])
            torch.testing.assert_close(output["pairs"], expected["pairs"])
    maps = [outputs[0]["panoptic_seg"][0] for outputs in found[:2]]
    assert not torch.equal(*maps), "different images"
    recorded.postprocessor.object_threshold = 1.0
    assert recorded([first])[0]["panoptic_seg"][1] == [], "thresholds are arguments"


@torch.no_grad()
def test_graphs_made_on_the_host_keep_their_masks(device, recorder):
    """The runs of a panoptic map are recorded, too, and copied before the next image's."""
    torch.manual_seed(0)
    plain = tiny_model(object_threshold=0.0, overlap_threshold=0.1).to(device).eval()
    recorded = copy.deepcopy(plain)
    compile_parts(recorded, "none", "graphs", recorder)
    inputs = [tiny_input(1) for _ in range(3)]
    found = [recorded([x], on_host=True)[0] for x in inputs]
    assert len(recorded.postprocessor.runs._recordings) == 1
    for output in found:
        starts, values = output["panoptic_runs"]
        panoptic = output["panoptic_seg"][0].T.flatten()
        assert panoptic.any()
        lengths = torch.from_numpy(starts).diff(append=torch.tensor([len(panoptic)], dtype=torch.int32))
        assert torch.equal(torch.from_numpy(values).repeat_interleave(lengths.long()), panoptic.cpu())


@gpu
@pytest.mark.parametrize("mode", MODES.choices[1:])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_in_every_mode(mode, dtype):
    torch.manual_seed(0)
    model, totals = tiny_model(freeze=True).cuda().train(), {}
    for each in ("none", mode):
        compile_parts(model, each)
        totals[each] = []
        for step in range(3):
            torch.manual_seed(step)
            model.zero_grad()
            with torch.autocast("cuda", dtype=dtype):
                total = sum(model([tiny_input(3), tiny_input(2)]).values())
            total.backward()
            norm = sum(p.grad.float().square().sum() for p in model.parameters() if p.grad is not None).sqrt()
            totals[each] += [total.item(), norm.item()]
    assert totals[mode] == pytest.approx(totals["none"], rel=0.05)


WAITS = """
import torch
from usg_psg.modeling.cuda_graphs import GraphedFunction

class Waits(torch.nn.Module):
    def forward(self, x):
        return x * x.sum().item()

GraphedFunction(Waits().forward, Waits())(torch.ones(2, device="cuda"))
"""


@gpu
def test_what_waits_for_the_device_is_named():
    """In a process of its own: CUDA's random numbers are of no use after a recording that failed."""
    run = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True)
    assert "Waits.forward cannot be recorded as a CUDA graph" in run.stderr


def test_an_unknown_mode_is_refused():
    for modes in (("fast",), ("none", "fast")):
        with pytest.raises(ValueError, match="mode: expected 'none', 'kernels', 'graphs'"):
            compile_parts(tiny_model(), *modes)
