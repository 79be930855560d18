"""What callers see: refused arguments, tracing, autocast, choice of backend, the layer, and mismatching binaries.

On a GPU: python -m pytest --noconftest tests/ops
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mask2former_ops
from mask2former_ops import (
    MSDeformAttn,
    available_backends,
    backend_report,
    backends,
    compilation,
    ms_deform_attn,
    ms_deform_attn_fused,
    set_backend,
)

from .cases import (
    DEVICES,
    EVERY_BACKEND,
    KERNELS,
    Shape,
    compiled,  # noqa: F401
    compiled_library,  # noqa: F401
    device,  # noqa: F401
    random_call,
    random_fused_call,
    relative_error,
)

SHAPE = Shape(((4, 5), (9, 7)))
FLAT = [4, 5, 9, 7]


def wrong_calls():
    value, locations, weights = random_call(SHAPE, torch.float32)
    shapes = [(4, 5), (9, 7)]
    return {
        "value": (value[0], shapes, None, locations, weights),
        "value must be float": (value.long(), shapes, None, locations, weights),
        "spatial_shapes .* add up to 73": (value, [(2, 5), (9, 7)], None, locations, weights),
        "spatial_shapes must hold": (value, [(4, 5), (9, 0)], None, locations, weights),
        "spatial_shapes must be an integer": (value, torch.ones(2, 3), None, locations, weights),
        "level_start_index": (value, shapes, [0, 21], locations, weights),
        "sampling_locations must have": (value, shapes, None, locations[:, :, :1], weights),
        "sampling_locations must be floating": (value, shapes, None, locations.long(), weights),
        "attention_weights must have": (value, shapes, None, locations, weights[..., :3]),
        "attention_weights must be on": (value, shapes, None, locations, weights.to("meta")),
    }


@pytest.mark.parametrize("backend", ["pytorch", "compiled"])
@pytest.mark.parametrize("message", wrong_calls())
def test_wrong_arguments_are_named(compiled_library, backend, message):  # noqa: F811
    set_backend(backend)
    try:
        with pytest.raises(ValueError, match=message):
            ms_deform_attn(*wrong_calls()[message])
    finally:
        set_backend(None)


@pytest.mark.parametrize("device", DEVICES)
def test_direct_calls_of_the_operator_are_checked_too(compiled, device):  # noqa: F811
    value, locations, weights = random_call(SHAPE, torch.float32, device)
    op = torch.ops.mask2former_ops.ms_deform_attn
    with pytest.raises(ValueError, match="add up to 68 tokens, but value has S=83"):
        op(value, [4, 5, 8, 6], locations, weights)
    with pytest.raises(ValueError, match="sampling_locations must be contiguous"):
        op(value, FLAT, locations.transpose(0, 1).contiguous().transpose(0, 1), weights)
    with pytest.raises(ValueError, match="attention_weights must be Float"):
        op(value, FLAT, locations, weights.double())
    with pytest.raises(ValueError, match="head width"):
        op(value[..., :3].contiguous(), FLAT, locations, weights)
    with pytest.raises(ValueError, match="grad_output must have shape"):
        torch.ops.mask2former_ops.ms_deform_attn_backward(value, value, FLAT, locations, weights)


def test_fused_arguments_are_named(compiled):  # noqa: F811
    value, reference, offsets, logits = random_fused_call(SHAPE, torch.float32)
    with pytest.raises(ValueError, match="reference_points must have shape"):
        ms_deform_attn_fused(value, SHAPE.levels, reference[:, :3], offsets, logits)
    with pytest.raises(ValueError, match="attention_logits must have shape"):
        ms_deform_attn_fused(value, SHAPE.levels, reference, offsets, logits[..., :1])


def test_sizes_beyond_the_kernels_run_in_pytorch(compiled):  # noqa: F811
    for shape in (Shape(((3, 3),) * 9), Shape(((3, 3),), width=6), Shape(((3, 3),), width=132)):
        value, locations, weights = random_call(shape, torch.float64)
        expected = mask2former_ops.ms_deform_attn_reference(value, shape.levels, locations, weights)
        assert torch.equal(ms_deform_attn(value, shape.levels, None, locations, weights), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(compiled, device):  # noqa: F811
    inputs = [x.requires_grad_() for x in random_call(SHAPE, torch.float32, device)]
    torch.library.opcheck(torch.ops.mask2former_ops.ms_deform_attn, (inputs[0], FLAT, *inputs[1:]))
    value, reference, offsets, logits = random_fused_call(SHAPE, torch.float32, device)
    for each in (value, value.flatten(2)):
        call = (each.requires_grad_(), FLAT, reference, offsets.requires_grad_(), logits.requires_grad_())
        torch.library.opcheck(torch.ops.mask2former_ops.ms_deform_attn_fused, call)
    levels = torch.tensor(SHAPE.levels, device=device)
    op = torch.ops.mask2former_ops.ms_deform_attn_tensor_shapes
    torch.library.opcheck(op, (inputs[0], levels, None, *inputs[1:]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_compiles_into_one_graph(compiled, as_tensor, device):  # noqa: F811
    inputs = [x.requires_grad_() for x in random_call(SHAPE, torch.float32, device)]
    shapes = torch.tensor(SHAPE.levels) if as_tensor else list(SHAPE.levels)

    def function(value, locations, weights):
        return ms_deform_attn(value * 2, shapes, None, locations, weights).sin()

    traced = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(function(*inputs).sum(), inputs)
    found = torch.autograd.grad(traced(*inputs).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("device", EVERY_BACKEND, indirect=True)
def test_layer_compiles_into_one_graph(device):  # noqa: F811
    layer = MSDeformAttn(64, num_levels=2, num_heads=2).to(device)
    query, reference = torch.randn(2, 83, 64, device=device), torch.rand(2, 83, 2, 2, device=device)
    traced = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        traced(query, reference, query, [(4, 5), (9, 7)]), layer(query, reference, query, [(4, 5), (9, 7)])
    )


@pytest.mark.parametrize("device", KERNELS, indirect=True)
def test_second_order_gradients_are_refused(device):  # noqa: F811
    inputs = [x.requires_grad_() for x in random_call(SHAPE, torch.float32, device)]
    output = ms_deform_attn(inputs[0], SHAPE.levels, None, *inputs[1:])
    (grad,) = torch.autograd.grad(output.sum(), inputs[1], create_graph=True)
    own = mask2former_ops.get_backend() == "compiled"
    with pytest.raises(RuntimeError, match="no second-order gradients" if own else None):
        grad.sum().backward()


@pytest.mark.parametrize("device", EVERY_BACKEND, indirect=True)
def test_layer_under_autocast(device):  # noqa: F811
    layer = MSDeformAttn(64, num_levels=2, num_heads=2).to(device)
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.1)
    torch.nn.init.normal_(layer.attention_weights.weight, std=0.1)
    query, reference = torch.randn(2, 83, 64, device=device), torch.rand(2, 83, 2, 2, device=device)
    expected = layer(query, reference, query, SHAPE.levels)
    with torch.autocast(device, torch.bfloat16):
        found = layer(query, reference, query, SHAPE.levels)
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16
    assert relative_error(found, expected) < 3e-2
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("device", DEVICES)
def test_layer_agrees_between_backends(compiled_library, device):  # noqa: F811
    layer = MSDeformAttn(64, num_levels=2, num_heads=2).double().to(device)
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.1)
    torch.nn.init.normal_(layer.attention_weights.weight, std=0.1)
    query = torch.randn(2, 9, 64, dtype=torch.float64, device=device)
    memory = torch.randn(2, 83, 64, dtype=torch.float64, device=device)
    reference = torch.rand(2, 9, 2, 2, dtype=torch.float64, device=device)
    padding = torch.zeros(2, 83, dtype=torch.bool, device=device)
    padding[1, 60:] = True
    outputs = {}
    for backend in ("pytorch", "compiled"):
        set_backend(backend)
        for points in (reference, reference.clone().requires_grad_()):  # with a gradient, the fused kernel is left out
            output = layer(query, points, memory, SHAPE.levels, padding_mask=padding)
            outputs[backend, points.requires_grad] = output
    set_backend(None)
    for output in outputs.values():
        torch.testing.assert_close(output, outputs["pytorch", False], rtol=1e-10, atol=1e-10)
    changed = memory + padding[..., None]
    torch.testing.assert_close(layer(query, reference, changed, SHAPE.levels, None, padding), output)


def test_reference_points_get_a_gradient_on_every_backend(compiled_library):  # noqa: F811
    layer = MSDeformAttn(64, num_levels=2, num_heads=2)
    query = torch.randn(2, 83, 64)
    grads = []
    for backend in ("pytorch", "compiled"):
        reference = torch.full((2, 83, 2, 2), 0.4, requires_grad=True)
        set_backend(backend)
        layer(query, reference, query, SHAPE.levels).sum().backward()
        grads.append(reference.grad)
    set_backend(None)
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_layer_has_the_published_parameters_and_initialisation():
    layer = MSDeformAttn()
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    assert shapes == {
        "sampling_offsets.weight": (192, 256),
        "sampling_offsets.bias": (192,),
        "attention_weights.weight": (96, 256),
        "attention_weights.bias": (96,),
        "value_proj.weight": (256, 256),
        "value_proj.bias": (256,),
        "output_proj.weight": (256, 256),
        "output_proj.bias": (256,),
    }
    offsets = layer.sampling_offsets.bias.view(8, 3, 4, 2)
    # Head 0 looks right, head 1 to the lower right, head 2 down; the largest coordinate of point k is k + 1.
    torch.testing.assert_close(offsets[0, 1, :, 0], torch.arange(1.0, 5))
    torch.testing.assert_close(offsets[1, 2, 1], torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(offsets[2, 0, 3], torch.tensor([0.0, 4.0]), atol=1e-6, rtol=0)
    assert not layer.sampling_offsets.weight.any() and not layer.attention_weights.weight.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"embed_dim": 30}, "embed_dim must be .* num_heads=8, got 30"), ({"num_points": 0}, "num_points")],
)
def test_layer_refuses_impossible_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        MSDeformAttn(**arguments)


def test_layer_names_the_wrong_argument():
    layer = MSDeformAttn(64, num_levels=2, num_heads=2)
    query, reference = torch.randn(2, 5, 64), torch.rand(2, 5, 2, 2)
    with pytest.raises(ValueError, match=r"value_input must have shape \(2, 83, 64\), got \(2, 80, 64\)"):
        layer(query, reference, torch.randn(2, 80, 64), SHAPE.levels)
    with pytest.raises(ValueError, match="reference_points"):
        layer(query, reference[..., :1], torch.randn(2, 83, 64), SHAPE.levels)
    with pytest.raises(ValueError, match="spatial_shapes must hold 2 levels, got 1"):
        layer(query, reference, torch.randn(2, 83, 64), [(83, 1)])


def test_choice_of_backend(compiled_library, monkeypatch, caplog):  # noqa: F811
    assert available_backends("cpu") == ["compiled", "pytorch"]
    monkeypatch.setenv("USG_PSG_OPS_BACKEND", "pytorch")
    assert mask2former_ops.get_backend() == "pytorch"
    set_backend("compiled")
    assert mask2former_ops.get_backend() == "compiled"
    with caplog.at_level(logging.INFO, "mask2former_ops"):
        value, locations, weights = random_call(SHAPE, torch.float32)
        for _ in range(3):
            ms_deform_attn(value, SHAPE.levels, None, locations, weights)
    assert len(caplog.records) == 1 and "compiled backend" in caplog.text  # one line, not one a call
    set_backend(None)
    monkeypatch.setenv("USG_PSG_OPS_BACKEND", "fast")
    with pytest.raises(ValueError, match="USG_PSG_OPS_BACKEND must be one of auto"):
        mask2former_ops.get_backend()
    with pytest.raises(ValueError, match="name must be one of"):
        set_backend("fast")
    monkeypatch.delenv("USG_PSG_OPS_BACKEND")
    set_backend("upstream")
    with pytest.raises(RuntimeError, match="'upstream' is not available on cpu"):
        ms_deform_attn(value, SHAPE.levels, None, locations, weights)
    set_backend(None)


def test_without_compiled_operators_one_line_says_how_to_get_them(monkeypatch):
    nothing = backends.CompiledStatus(frozenset(), "no compiled operators are installed")
    monkeypatch.setattr(backends, "compiled_status", lambda: nothing)
    set_backend(None)  # forgets earlier choices
    assert backends.resolve_backend("cpu") == "pytorch"
    assert "pip install --no-build-isolation ./mask2former_ops" in backend_report("cpu")
    set_backend(None)


def test_deformops_stands_between_the_compiled_and_the_pytorch_backend(monkeypatch):
    found, missing = {"compiled": {"cuda"}, "deformops": ""}, "deformops is not installed"
    status = lambda: backends.CompiledStatus(frozenset(found["compiled"]), "installed")  # noqa: E731
    monkeypatch.setattr(backends, "compiled_status", status)
    monkeypatch.setattr(backends.deformops, "missing", lambda: found["deformops"])
    assert available_backends("cuda")[:2] == ["compiled", "deformops"] and "deformops" not in available_backends("cpu")
    for compiled_on, reason, backend in (
        ("cuda", "", "compiled"),
        ("cpu", "", "deformops"),
        ("cpu", missing, "pytorch"),
    ):
        found.update(compiled={compiled_on}, deformops=reason)
        set_backend(None)  # forgets earlier choices
        assert backends.resolve_backend("cuda") == backend
        assert f"{backend} backend" in backend_report("cuda") and reason in backend_report("cuda")
    set_backend("deformops")
    with pytest.raises(RuntimeError, match="'deformops' is not available on cuda: deformops is not installed"):
        backends.resolve_backend("cuda")
    set_backend(None)


def test_deformops_that_cannot_be_imported_is_left_out(monkeypatch, tmp_path, caplog):
    (tmp_path / "deformops.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "deformops", raising=False)
    monkeypatch.setitem(sys.modules, "deformops.registry", None)
    assert "cannot be used" in backends.deformops.missing.__wrapped__()
    assert "Backend left out" in caplog.text


def test_deformops_refuses_deterministic_algorithms(monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    value, locations, weights = random_call(SHAPE, torch.float32)
    with pytest.raises(RuntimeError, match="no deterministic backward pass"):
        backends.deformops.ms_deform_attn_deformops(value.requires_grad_(), SHAPE.levels, locations, weights)


def write_binary(folder: Path, **changes) -> Path:
    (folder / "_C.so").write_bytes(b"not a library")
    info = {
        "library": "_C.so",
        "size": 13,
        "torch": torch.__version__,
        "cuda": None,
        "interface": compilation.INTERFACE_VERSION,
    }
    (folder / "build_info.json").write_text(json.dumps({**info, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"torch": "1.9.0"}, r"was built for torch 1\.9\.0, but this is torch"),
        ({"interface": -1}, "was built for interface -1"),
        ({"cuda": "9.9"}, "was built for cuda 9.9"),
        ({"size": 14}, "half-built: expected a file of 14 bytes, got 13"),
        ({"library": "other.so"}, "half-built: expected a file of 13 bytes, got None"),
    ],
)
def test_binaries_that_do_not_fit_are_named(tmp_path, changes, message):
    assert backends.check_binary(write_binary(tmp_path)) == tmp_path / "_C.so"
    with pytest.raises(backends.BinaryMismatchError, match=message):
        backends.check_binary(write_binary(tmp_path, **changes))


def test_binary_without_description_is_named(tmp_path):
    with pytest.raises(backends.BinaryMismatchError, match="half-built: build_info.json"):
        backends.check_binary(tmp_path)


def test_broken_binary_does_not_stop_the_program(tmp_path):
    """A library that passes the description but cannot be opened: a warning, then the PyTorch backend."""
    package = tmp_path / "_mask2former_ops"
    package.mkdir()
    (package / "__init__.py").touch()
    write_binary(package)
    program = (
        "import logging, torch; logging.basicConfig(); import mask2former_ops as ops\n"
        "layer = ops.MSDeformAttn(32, 1, 2); x = torch.randn(1, 4, 32)\n"
        "print(layer(x, torch.rand(1, 4, 1, 2), x, [(2, 2)]).shape)"
    )
    root = Path(mask2former_ops.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{tmp_path}:{root}", "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "torch.Size([1, 4, 32])" in result.stdout
    assert "_C.so cannot be loaded" in result.stderr


def test_header_of_cublaslt_is_looked_for_beside_pytorch(monkeypatch, tmp_path):
    site = tmp_path.resolve()
    monkeypatch.setattr(torch, "__file__", str(site / "torch" / "__init__.py"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert compilation.nvcc_flags() == ["-O3"]
    for name in ("cu13", "cublas"):
        (site / "nvidia" / name / "include").mkdir(parents=True)
    (site / "nvidia" / "cu13" / "include" / "cublasLt.h").touch()
    assert compilation.nvcc_flags() == ["-O3", f"-Xcompiler=-idirafter{site}/nvidia/cu13/include"]
