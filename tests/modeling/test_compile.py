"""Compiled formulas of the losses: the same values, compiled once for all numbers of objects."""

import copy
import shutil
from functools import partial

import pytest
import torch
from torch import nn

from usg_psg.losses import ObjectCriterion
from usg_psg.losses.matcher import HungarianMatcher
from usg_psg.modeling import RelationHead
from usg_psg.modeling import compile as compile_module
from usg_psg.modeling.compile import compile_parts
from usg_psg.modeling.cuda_graphs import _stand_ins
from usg_psg.structures import SegmentMasks

from ..losses.test_matcher import make_targets
from ..tiny import loss_counts, object_predictions, tiny_input, tiny_model

LAYERS, QUERIES, CLASSES = 3, 12, 4


class Losses(nn.Module):
    """The losses of a model, without its network."""

    def __init__(self):
        super().__init__()
        self.criterion = tiny_model().criterion
        self.criterion.matcher = HungarianMatcher(num_points=64)
        self.criterion.object_criterion = ObjectCriterion(num_points=64)

    def parts(self):
        return []

    def formulas(self):
        return self.criterion.formulas()

    def recordable(self):
        return []

    def forward(self, counts, label_maps):
        """Losses, and the gradients of what was predicted, of a batch with these numbers of objects."""
        torch.manual_seed(sum(counts))
        predicted = [torch.randn(LAYERS, len(counts), QUERIES, n, requires_grad=True) for n in (CLASSES, 8)]
        features = torch.randn(len(counts), 8, 16, 16, requires_grad=True)
        targets = make_targets(counts, num_classes=CLASSES)
        if label_maps:
            number = targets.slot + 1
            owner = torch.randint(0, max(counts) + 1, (len(counts), 16, 16), dtype=torch.uint8)
            targets.masks = SegmentMasks(owner, number, targets.image_index)
        objects = object_predictions(*predicted, features)
        query = self.criterion.matcher(objects, targets)
        losses = self.criterion.object_criterion(objects, targets, query, loss_counts(sum(counts), 0, len(counts)))
        torch.stack([*losses.values()]).sum().backward()
        return query, losses, [x.grad for x in (*predicted, features)]


def compare(label_maps: bool) -> int:
    """How often formulas were compiled, whose values are those of the plain ones."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = Losses().train(), Losses().train()
    compile_parts(compiled, "kernels")
    for counts in ([3, 5], [9, 0], [17, 2], [1, 11], [0, 1], [0, 0]):
        query, losses, gradients = plain(counts, label_maps)
        other_query, other_losses, other_gradients = compiled(counts, label_maps)
        assert torch.equal(query, other_query)
        for name, value in losses.items():
            torch.testing.assert_close(other_losses[name], value, rtol=1e-5, atol=1e-6)
        for one, other in zip(gradients, other_gradients, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("label_maps", [False, True])
def test_formulas_are_compiled_once_for_all_numbers_of_objects(label_maps, monkeypatch):
    monkeypatch.setattr(compile_module, "_keep_what_is_compiled", lambda: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    # Label maps are as many as images; masks that are tensors are as many as objects, which the second batch shows.
    assert compare(label_maps) == (3 if label_maps else 4), "of costs, of classes, of points"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_losses_are_the_losses(monkeypatch):
    monkeypatch.setattr(compile_module, "_keep_what_is_compiled", lambda: None)
    assert compare(label_maps=True) == 3


@pytest.mark.filterwarnings("error::FutureWarning")  # newer versions of PyTorch warn of options that they ignore
def test_only_training_with_kernels_compiles_formulas():
    model = tiny_model()
    criterion = model.criterion
    for modes in (("graphs", "none"), ("none", "kernels"), ("kernels", "none"), ("none", "none")):
        compile_parts(model, *modes)
        is_compiled = modes[0] == "kernels"
        assert (
            ("cost" in vars(criterion.matcher)) == ("point_losses" in vars(criterion.object_criterion)) == is_compiled
        )


def test_layers_of_one_kind_are_compiled_once_for_all_levels(monkeypatch):
    monkeypatch.setattr(compile_module, "_keep_what_is_compiled", lambda: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    graphs, totals = {}, {}
    for layers in (3, 6):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        model = tiny_model(freeze=True, relation_layers=layers).train()
        for decoder in (model.pixel_decoder, model.mask_decoder):
            decoder.layers.extend(copy.deepcopy(layer) for layer in [*decoder.layers][: layers - 3])
        for mode in ("none", "kernels"):
            compile_parts(model, mode)
            torch.manual_seed(1)
            totals[mode] = sum(model([tiny_input(3), tiny_input(2)]).values()).item()
        assert totals["kernels"] == pytest.approx(totals["none"], rel=1e-4)
        graphs[layers] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    # Backbone; of the pixel decoder its entry, layers, exit; of the mask decoder levels, layers, predictions, masks;
    # classes, costs, pairs; queries, levels, layers, predicates of relations; class and point losses.
    assert graphs == {3: 17, 6: 17}


def test_regions_are_left_as_they_were(monkeypatch):
    monkeypatch.setattr(compile_module, "_keep_what_is_compiled", lambda: None)
    model = tiny_model(freeze=True)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    compile_parts(model, "kernels")
    assert "forward" in vars(model.mask_decoder.layers[0])
    compile_parts(model, "none")
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


def test_regions_take_arguments_by_name(monkeypatch):
    monkeypatch.setattr(compile_module, "_keep_what_is_compiled", lambda: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = tiny_model(freeze=True).eval()
    layer = model.relation_head.relation_decoder.layers[0]
    x, memory = torch.rand(2, 5, 32), torch.rand(2, 7, 32)
    expected = layer(x, memory, key=memory)
    compile_parts(model, "none", "kernels")
    for size in (7, 1):
        assert layer(x, memory[:, :size], key=memory[:, :size]).shape == expected.shape
    torch.testing.assert_close(layer(x, memory, key=memory), expected)


def test_each_recording_reads_its_own_weights(monkeypatch):
    monkeypatch.setattr(compile_module, "_keep_what_is_compiled", lambda: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    compiled = compile_module._prepare(layer.forward, "kernels", set(), None)
    for _ in range(2):
        with _stand_ins(layer) as stand_ins:
            compiled(torch.ones(2, 4)).sum().backward()
        assert all(p.grad is not None for p in stand_ins.values())


@pytest.mark.parametrize("names_its_own", [False, True])
def test_a_subclass_with_a_decoder_of_its_own_is_compiled_whole(names_its_own, monkeypatch):
    class Own(RelationHead):
        def decode(self, queries, proposals, *arguments):
            return super().decode(queries, proposals, *arguments)

    if names_its_own:
        Own.regions = lambda self: {"decode": [(self.relation_queries, "forward", ())]}
    monkeypatch.setattr(compile_module, "_keep_what_is_compiled", lambda: None)
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda method: compiled.append(method.__qualname__) or method)
    model = tiny_model()
    model.relation_head.__class__ = Own
    compile_parts(model, "kernels")
    mine = "RelationQueries.forward" if names_its_own else f"{Own.__qualname__}.decode"
    assert mine in compiled and "RelationDecoderLayer.forward" not in compiled
