"""What a GPU does, on the CPU: the same objects without a look at values, in sizes that depend on no value."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from usg_psg.inference import Postprocessor, instance_pairs, map_runs
from usg_psg.scene_graph import SceneGraph
from usg_psg.structures import ObjectPredictions, PairProposals, RelationPredictions
from usg_psg.vocabulary import Vocabulary

QUERIES, PAIRS = 12, 40
IS_THING = torch.tensor([True, False, True, False, False])
NAMES = Vocabulary(tuple("abcde"), (), tuple("pqrs"))


def predictions(images: int, seed: int = 0) -> tuple[ObjectPredictions, RelationPredictions]:
    """Sure and unsure queries, a few of them without a pixel."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    features, embeddings = randn(images, 8, 16, 24), randn(1, images, QUERIES, 8)
    features[:, 0] = 1
    embeddings[..., ::5, 0] = -30
    objects = ObjectPredictions(embeddings, 2 * randn(1, images, QUERIES, 5) - 2, embeddings, features)
    pairs = torch.cartesian_prod(torch.arange(QUERIES), torch.arange(QUERIES))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]][:PAIRS].expand(images, -1, -1)
    proposals = PairProposals(randn(images, QUERIES, QUERIES), pairs[..., 0], pairs[..., 1])
    return objects, RelationPredictions(proposals, randn(images, PAIRS, 4))


@contextmanager
def no_waits() -> Iterator[None]:
    """Inside, what would make the host wait for a GPU fails."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def outputs(images: int, seed: int = 0, device: str = "cpu", on_host: bool = False) -> list[dict]:
    post, is_thing = Postprocessor(0.4, 0.1, 20), IS_THING.to(device)
    objects, relations = predictions(images, seed)
    objects = ObjectPredictions(**{name: x.to(device) for name, x in vars(objects).items()})
    proposals = PairProposals(**{name: x.to(device) for name, x in vars(relations.proposals).items()})
    relations = RelationPredictions(proposals, relations.predicate_logits.to(device))
    sizes = [(64, 96), (60, 80)][:images]
    with no_waits() if device == "cuda" else nullcontext():
        found = post.detected_objects(objects, is_thing, (64, 96), sizes, [(64, 96), (131, 177)][:images])
        instance_pairs(found)
    return post.scene_graphs(found, relations, on_host)


def assert_same(one: list[dict], other: list[dict]) -> None:
    for first, second in zip(one, other, strict=True):
        for name in ("pred_masks", "pred_classes", "scores", "segment_ids"):
            assert torch.equal(first["instances"].get(name), second["instances"].get(name)), name
        assert torch.equal(first["panoptic_seg"][0], second["panoptic_seg"][0])
        assert first["panoptic_seg"][1] == second["panoptic_seg"][1]
        for kind in ("relations", "pairs"):
            assert first[kind].keys() == second[kind].keys()
            assert all(torch.equal(value, second[kind][key]) for key, value in first[kind].items()), kind


@pytest.mark.parametrize("mask_pixels", [2**27, 5 * 131 * 177])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_a_look_at_values_the_results_are_the_same(seed, mask_pixels, monkeypatch):
    expected = outputs(2, seed=seed)
    for output in expected:
        assert 0 < len(output["instances"]) < QUERIES and len(output["panoptic_seg"][1]) > 1
        assert 0 < len(output["pairs"]["score"]) < PAIRS
    monkeypatch.setattr("mask2former_ops.reference.MASK_PIXELS", mask_pixels)
    monkeypatch.setattr("usg_psg.inference.panoptic.is_at_hand", lambda _: False)
    assert_same(outputs(2, seed=seed), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("images", [1, 2])
def test_a_gpu_finds_the_same_objects_without_a_wait(images):
    for found, expected in zip(outputs(images, device="cuda"), outputs(images), strict=True):
        one, other = ([(x["category_id"], x["isthing"]) for x in each["panoptic_seg"][1]] for each in (found, expected))
        assert one == other
        assert (found["panoptic_seg"][0].cpu() != expected["panoptic_seg"][0]).float().mean() < 1e-3
        assert found["instances"].pred_masks.is_cuda and len(found["instances"]) == len(expected["instances"])
        torch.testing.assert_close(found["relations"]["score"], expected["relations"]["score"])
        torch.testing.assert_close(found["pairs"], expected["pairs"])


@pytest.mark.parametrize("of_column", [16, 1])
@pytest.mark.parametrize("images", [1, 2])
def test_a_graph_needs_no_more_than_what_is_on_the_host(images, of_column, monkeypatch):
    expected = outputs(images)
    monkeypatch.setattr("usg_psg.inference.postprocess.is_at_hand", lambda _: False)
    monkeypatch.setattr("usg_psg.inference.postprocess.RUNS_OF_COLUMN", of_column)
    for found, whole in zip(outputs(images, on_host=True), expected, strict=True):
        assert not found["instances"].has("pred_masks")
        assert found["instances"].image_size == whole["instances"].image_size
        for name in ("pred_classes", "scores", "segment_ids"):
            assert torch.equal(found["instances"].get(name), whole["instances"].get(name)), name
        assert ("panoptic_runs" in found) == (of_column == 16), "there are more than one a column"
        graph = SceneGraph.from_output(whole, NAMES)
        assert SceneGraph.from_output(found, NAMES) == graph and len(graph.objects) > 1
        if of_column == 16:
            panoptic, info = found["panoptic_seg"]
            without = {**found, "panoptic_seg": (torch.empty_like(panoptic, device="meta"), info)}
            assert SceneGraph.from_output(without, NAMES) == graph, "nobody looks at the map"
    assert SceneGraph.from_output(expected[0], NAMES).relations


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("images", [1, 2])
def test_a_gpu_s_graphs_are_made_without_another_wait(images):
    found, whole = (outputs(images, device="cuda", on_host=on_host) for on_host in (True, False))
    with no_waits():
        graphs = [SceneGraph.from_output(output, NAMES) for output in found]
    assert graphs == [SceneGraph.from_output(output, NAMES) for output in whole]


@pytest.mark.parametrize("size", [(40, 30), (1, 9), (9, 1), (1, 1)])
def test_runs_of_a_map_are_those_down_its_columns(size):
    panoptic = torch.randint(0, 3, size, generator=torch.Generator().manual_seed(0)).to(torch.int32)
    pixels = panoptic.T.flatten().tolist()
    expected = [(i, x) for i, x in enumerate(pixels) if i == 0 or x != pixels[i - 1]]
    for most in (len(expected) + 3, len(expected), 1):
        starts, values = map_runs(panoptic, most).tolist()
        assert list(zip(starts, values, strict=True))[: len(expected)] == expected[:most]
        assert starts[len(expected) :] == [len(pixels)] * max(most - len(expected), 0)


def test_no_object_at_all(monkeypatch):
    post, (objects, relations) = Postprocessor(0.4, 0.1, 20), predictions(1)
    objects.mask_embeddings = torch.zeros_like(objects.mask_embeddings)
    objects.mask_embeddings[..., 0] = -1
    for at_hand in (True, False):
        monkeypatch.setattr("usg_psg.inference.panoptic.is_at_hand", lambda _, value=at_hand: value)
        found = post.detected_objects(objects, IS_THING, (64, 96), [(64, 96)], [(64, 96)])
        (output,) = post.scene_graphs(found, relations)
        assert len(output["instances"]) == 0 and output["instances"].pred_masks.shape == (0, 64, 96)
        assert not output["panoptic_seg"][0].any() and output["panoptic_seg"][1] == []
        assert all(len(x) == 0 for kind in ("relations", "pairs") for x in output[kind].values())


class FromTheHost(TorchDispatchMode):
    """Counts operators that take a tensor of the host, beside others."""

    def __init__(self) -> None:
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        given = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        self.found += [str(operator)] * any(x.device.type == "cpu" for x in given)
        return operator(*args, **kwargs or {})


class Counted(TorchDispatchMode):
    """Counts the operators that run."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += 1
        return operator(*args, **kwargs or {})


def test_operators_run_once_for_all_images_but_for_their_pixels():
    """Launching them is most of the time on a GPU."""

    def operators(images: int) -> int:
        post, (objects, relations) = Postprocessor(), predictions(images)
        with Counted() as counted:
            found = post.detected_objects(objects, IS_THING, (64, 96), *([[(64, 96)] * images] * 2))
            post.scene_graphs(found, relations)
        return counted.count

    one, three, nine = map(operators, (1, 3, 9))
    assert (nine - three) / 6 < one / 2


@pytest.mark.parametrize("images", [1, 2])
def test_nothing_waits_for_a_gpu(images):
    """Tensors without values are on a GPU that need not be there: whoever asks for a value of theirs fails."""
    post, (objects, _) = Postprocessor(), predictions(images)
    with FakeTensorMode(allow_non_fake_inputs=True), FromTheHost() as copies:
        cuda = {name: torch.empty_like(x, device="cuda") for name, x in vars(objects).items()}
        sizes = [(64, 96), (60, 80)][:images]
        is_thing = torch.empty(5, dtype=torch.bool, device="cuda")
        copies.found.clear()
        found = post.detected_objects(ObjectPredictions(**cuda), is_thing, (64, 96), sizes, [(131, 177)] * images)
        priority = instance_pairs(found)
        ends = torch.empty((2, images, PAIRS), dtype=torch.int64, device="cuda")
        sizes = (images, QUERIES, QUERIES), (images, PAIRS, 4)
        pair_logits, predicate_logits = (torch.empty(size, device="cuda") for size in sizes)
        own = (torch.stack([getattr(x, name) for x in found]) for name in ("query_scores", "mask_of_query"))
        ranked = post.rank(*ends, pair_logits, predicate_logits, None, *own, 20)
        runs = post.runs(found[0].panoptic, 16)
        with pytest.raises(Exception, match="nonzero"):
            found[0].mask_of_query.nonzero()
    assert not copies.found
    assert priority.shape == (images, QUERIES, QUERIES) and found[0].masks.shape == (QUERIES, 131, 177)
    assert runs.shape == (2, 16 * 177) and runs.is_cuda
    assert [x.shape for x in ranked] == [(images, 3, PAIRS), (images, 3, 20 + 20)] and ranked[0].is_cuda
