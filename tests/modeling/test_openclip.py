"""OpenCLIP models from files."""

import pytest
import torch

from usg_psg.modeling import openclip

DRAWS = {"usg_convnext_zepto": False, "RN50-quickgelu": True}  # that makes some weights of torch.randn


@pytest.fixture
def poisoned_memory():
    """New memory is not a number."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("name", DRAWS)
def test_a_file_gives_every_weight_and_buffer(name, tmp_path, monkeypatch, poisoned_memory):
    source = openclip.load_openclip(name)
    with torch.no_grad():
        for number, parameter in enumerate(source.parameters()):
            parameter += number
    torch.save(source.state_dict(), tmp_path / "weights.pt")

    create = openclip.open_clip.create_model

    def without_drawing(*args, **kwargs):
        state = torch.get_rng_state()
        model = create(*args, **kwargs)
        assert DRAWS[name] or torch.equal(torch.get_rng_state(), state), "weights that are read next were drawn"
        return model

    monkeypatch.setattr(openclip.open_clip, "create_model", without_drawing)
    found = openclip.load_openclip(name, str(tmp_path / "weights.pt"))
    for kind in ("named_parameters", "named_buffers"):
        expected = dict(getattr(source, kind)())
        assert dict(getattr(found, kind)()).keys() == expected.keys()
        for each, value in getattr(found, kind)():
            assert torch.equal(value, expected[each]), each
