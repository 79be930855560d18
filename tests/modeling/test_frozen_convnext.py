"""A frozen ConvNeXt's blocks as one operator each and its stem as a product: which are, what they compute, how loaded
weights reach them."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from usg_psg.modeling.frozen_convnext import (
    FrozenBlock,
    FrozenPatches,
    has_patches,
    is_plain,
    replace_plain_blocks,
    replace_stem,
)
from usg_psg.modeling.openclip_convnext import OpenCLIPConvNeXt, _with_scales_folded

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def small_trunk(**changes) -> nn.Module:
    """A ConvNeXt of the full-size one's kind, with random numbers in place of zeros and small scales."""
    given = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "conv_mlp": False, **changes}
    trunk = timm.create_model("convnext_atto", **given).eval()
    for parameter in trunk.parameters():
        nn.init.normal_(parameter, std=0.5)
    return trunk


def folded_stages(trunk: nn.Module) -> nn.ModuleDict:
    return _with_scales_folded(nn.ModuleDict({"stem": trunk.stem, "stages": trunk.stages}))


def test_every_block_of_the_full_size_trunk_is_recognised():
    import open_clip

    with torch.device("meta"):
        config = open_clip.get_model_config("convnext_large_d_320")["vision_cfg"]
        trunk = timm.create_model(config["timm_model_name"], drop_path_rate=0.1, num_classes=0).eval()
    assert replace_plain_blocks(folded_stages(trunk)) == (36, 36)
    assert replace_stem(nn.ModuleDict({"stem": trunk.stem}))


def test_features_are_those_of_timm():
    trunk = small_trunk()
    stages = folded_stages(trunk)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = trunk.stages(trunk.stem(image))
        assert replace_plain_blocks(stages) == (5, 5)
        found = stages["stages"](stages["stem"](image))
    assert not any(
        parameter.requires_grad
        for block in stages.modules()
        if isinstance(block, FrozenBlock)
        for parameter in block.parameters()
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (9, 3)])
def test_a_block_is_that_of_timm_at_sizes_below_its_kernel(size):
    block = small_trunk().stages[2].blocks[1]
    block.gamma = None
    x = torch.randn(2, 24, *size)
    with torch.no_grad():
        found, expected = FrozenBlock(block)(x), block(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel, bias, size", [((4, 4), True, (64, 96)), ((2, 3), False, (9, 11))])
def test_a_convolution_of_patches_is_a_product(kernel, bias, size):
    convolution = nn.Conv2d(3, 8, kernel, stride=kernel, bias=bias).double()
    assert has_patches(convolution)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for image in (x, x.to(memory_format=torch.channels_last)):
        found = FrozenPatches(convolution)(image)
        torch.testing.assert_close(found, convolution(image))
        assert found.is_contiguous(memory_format=torch.channels_last) and not found.requires_grad


@pytest.mark.parametrize("changes", [{"stride": 1}, {"padding": 1}, {"dilation": 2}, {"groups": 3}], ids=str)
def test_a_convolution_whose_patches_overlap_or_miss_pixels_stays(changes):
    stem = nn.ModuleDict({"stem": nn.Sequential(nn.Conv2d(3, 9, 4, **{"stride": 4, **changes}))})
    assert not replace_stem(stem) and type(stem["stem"][0]) is nn.Conv2d


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_mlp": True},
        {"act_layer": "gelu_tanh"},
        {"act_layer": "relu"},
        {"use_grn": True},
        {"norm_layer": "rmsnorm"},
        {"kernel_sizes": 5},
        {"conv_bias": False},
    ],
    ids=str,
)
def test_other_blocks_stay_as_they_are(changes):
    stages = folded_stages(small_trunk(**changes))
    expected = [type(module) for module in stages.modules()]
    assert replace_plain_blocks(stages) == (0, 5)
    assert [type(module) for module in stages.modules()] == expected


def test_blocks_that_are_trained_or_scaled_stay_as_they_are():
    trunk = small_trunk(drop_path_rate=0.5)
    stages = folded_stages(trunk)
    plain = stages["stages"][3].blocks[0]
    assert is_plain(plain) and plain.drop_path.drop_prob > 0
    assert not is_plain(trunk.stages[3].blocks[0]), "its layer scale is not folded"
    plain.drop_path.train()
    assert not is_plain(plain), "paths are dropped"
    assert not is_plain(nn.Identity())


def test_loaded_weights_reach_the_copy_in_place(monkeypatch):
    def replace(trunk):
        replace_stem(trunk)
        replace_plain_blocks(trunk)

    monkeypatch.setattr("usg_psg.modeling.openclip_convnext.use_faster_parts", replace)
    backbone = OpenCLIPConvNeXt(small_trunk(), freeze=True, frozen_dtype="bfloat16")
    reduced = backbone._in_frozen_dtype()
    addresses = [parameter.data_ptr() for parameter in reduced.parameters()]
    assert {FrozenBlock, FrozenPatches} <= {type(module) for module in reduced.modules()}
    other = copy.deepcopy(backbone.state_dict())
    backbone.load_state_dict({name: 0.9 * value for name, value in other.items()})
    assert [parameter.data_ptr() for parameter in backbone._in_frozen_dtype().parameters()] == addresses
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = backbone._features(reduced, image.bfloat16(), torch.float32)
        expected = backbone._features(backbone.trunk, image, torch.float32)
    for name, feature in expected.items():
        assert (found[name] - feature).norm() / feature.norm() < 0.03


@NEEDS_GPU
def test_on_a_gpu_the_compiled_blocks_are_used():
    from mask2former_ops import available_backends

    if "compiled" not in available_backends("cuda"):
        pytest.skip("no compiled operators")
    backbone = OpenCLIPConvNeXt(small_trunk(), freeze=True).cuda()
    blocks = [block for stage in backbone._in_frozen_dtype()["stages"] for block in stage.blocks]
    assert all(isinstance(block, FrozenBlock) for block in blocks)
    assert isinstance(backbone._in_frozen_dtype()["stem"][0], FrozenPatches)
    image = torch.randn(1, 3, 64, 96, device="cuda")
    exact = backbone._features(backbone.trunk, image, torch.float32)
    for name, feature in backbone(image).items():
        assert (feature - exact[name]).norm() / exact[name].norm() < 0.03


def test_a_trunk_of_operators_compiles_into_one_graph(monkeypatch):
    monkeypatch.setattr("mask2former_ops.beside_attention._has_kernel", lambda tensor: True)
    stages = folded_stages(small_trunk()).bfloat16().to(memory_format=torch.channels_last)
    replace_plain_blocks(stages)
    assert replace_stem(stages)
    nodes = []

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        nodes.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    image = torch.randn(1, 3, 64, 64, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    with torch.no_grad():
        traced = torch.compile(lambda x: stages["stages"](stages["stem"](x)), fullgraph=True, backend=backend)
        torch.testing.assert_close(traced(image), stages["stages"](stages["stem"](image)))
    assert sum("convnext_block" in node for node in nodes) == 5
