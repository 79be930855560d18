"""Text embeddings: cache hit, miss, damage; names; OpenCLIP loading by tag, path and nothing."""

import errno
import logging
import multiprocessing
import os

import numpy as np
import open_clip
import pytest
import torch

from usg_psg.modeling import text_embeddings as module
from usg_psg.modeling.openclip import load_openclip, weights_identity
from usg_psg.modeling.text_embeddings import OpenCLIPText, encode_names, spoken_name, text_embeddings

NAME = "usg_convnext_zepto"
NAMES = ["person", "wall-other-merged", "in front of"]


def embed(tmp_path, names=NAMES, templates=("{}",), **kwargs):
    return text_embeddings(names, templates, model=NAME, cache_dir=tmp_path, **kwargs)


@pytest.fixture
def count_loads(monkeypatch):
    loads = []
    monkeypatch.setattr(module, "load_openclip", lambda *a: loads.append(a) or load_openclip(*a))
    return loads


def test_cache_miss_then_hit(tmp_path, count_loads):
    first = embed(tmp_path)
    assert len(count_loads) == 1
    torch.testing.assert_close(embed(tmp_path), first, rtol=0, atol=0)
    assert len(count_loads) == 1, "the second call must not load the text tower"
    embed(tmp_path, names=NAMES[::-1])
    embed(tmp_path, templates=("a {}",))
    assert len(count_loads) == 3, "other names or templates are other entries"


@pytest.mark.parametrize("name", ["cat,", ",cat", "cat, ,dog"])
def test_synonyms_must_not_be_empty(tmp_path, name):
    with pytest.raises(ValueError, match=f"synonyms.*{name}"):
        embed(tmp_path, names=["person", name])


@pytest.mark.parametrize("template", ["a photo", "a {} on a {}", "a {} {x}", "a {0} {}", "a {} {", "a {{}}"])
def test_a_prompt_has_one_place_for_the_name(tmp_path, template):
    with pytest.raises(ValueError, match="one {}"):
        embed(tmp_path, templates=("{}", template))


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None])
def test_damaged_cache_is_computed_again(tmp_path, count_loads, caplog, content):
    first = embed(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(embed(tmp_path), first)
    assert str(path) in caplog.text and len(count_loads) == 2
    embed(tmp_path)
    assert len(count_loads) == 2, "the damaged entry was replaced"


def test_the_text_tower_runs_where_it_is_asked_to(tmp_path, monkeypatch):
    devices = []
    monkeypatch.setattr(
        module,
        "encode_names",
        lambda tower, *_: devices.append(next(tower.clip.parameters()).device.type) or torch.ones(3, 2),
    )
    embed(tmp_path, device="meta")  # a device that every machine has
    assert devices == ["meta"]


def test_cache_that_cannot_be_written_only_warns(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        assert embed(blocked / "sub").shape[0] == 3
    assert "could not be written" in caplog.text


def test_a_cache_that_is_away_for_a_moment_is_no_damaged_one(tmp_path, monkeypatch, caplog):
    """Another process removes it before it is opened, and a third one makes it again at once."""
    expected = embed(tmp_path)

    def too_late(path, **_):
        raise RuntimeError(f"unable to open file <{path}> in read-only mode: {os.strerror(errno.ENOENT)} (2)")

    monkeypatch.setattr(module, "safe_open", too_late)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(embed(tmp_path), expected)
    assert "unusable" not in caplog.text


def _use_cache(path, seed, expected, pipe):
    """Hit, miss and remove the entry of the cache, as other processes do at the same time."""
    warnings, random = [], np.random.default_rng(seed)
    module.load_openclip = lambda *_: torch.nn.Identity()
    module.encode_names = lambda *_: expected
    module.logger.warning = lambda *args: warnings.append(str(args))
    wrong = 0
    for _ in range(50):
        if random.random() < 0.3:
            path.unlink(missing_ok=True)
        wrong += not torch.equal(embed(path.parent), expected)
    pipe.send((wrong, warnings))


def test_processes_that_make_the_cache_at_once_do_not_damage_it(tmp_path):
    expected = embed(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for seed in range(3):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=_use_cache, args=(path, seed, expected, theirs)))
        pipes.append(ours)
        processes[-1].start()
    results = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    assert results == [(0, [])] * 3
    torch.testing.assert_close(embed(tmp_path), expected, rtol=0, atol=0)
    assert len(list(tmp_path.iterdir())) <= 1, "nothing half-written is left"


def test_embeddings_are_normalised_means_over_templates_and_synonyms():
    tower = OpenCLIPText(load_openclip(NAME), open_clip.get_tokenizer(NAME))
    both = encode_names(tower, ["dog,cat"], ["{}", "a {}"])
    parts = torch.cat([encode_names(tower, [n], [t]) for n in ("dog", "cat") for t in ("{}", "a {}")])
    torch.testing.assert_close(both[0], torch.nn.functional.normalize(parts.sum(0), dim=0))
    torch.testing.assert_close(both.norm(dim=1), torch.ones(1))
    torch.testing.assert_close(
        encode_names(tower, NAMES, ["{}"], batch_size=2),
        encode_names(tower, NAMES, ["{}"]),
        atol=1e-6,
        rtol=1e-5,
    )


def test_names_as_they_are_spoken():
    assert spoken_name("wall-other-merged") == "wall"
    assert spoken_name("floor-wood") == "floor wood"
    assert spoken_name("in front of") == "in front of"


@pytest.mark.parametrize("names, templates", [([], ["{}"]), (["a", " "], ["{}"]), (["a"], ["a photo"]), (["a"], [])])
def test_unusable_vocabulary_is_refused(tmp_path, names, templates):
    with pytest.raises(ValueError):
        embed(tmp_path, names=names, templates=templates)


def test_random_weights_are_the_same_in_every_process_and_leave_the_seed_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = load_openclip(NAME)
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(6)
    second = load_openclip(NAME)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_from_a_path(tmp_path):
    saved = load_openclip(NAME)
    with torch.no_grad():
        saved.token_embedding.weight.add_(1.0)
    path = tmp_path / "weights.pt"
    torch.save(saved.state_dict(), path)
    loaded = load_openclip(NAME, str(path))
    assert torch.equal(loaded.token_embedding.weight, saved.token_embedding.weight)
    first = weights_identity(NAME, str(path))
    assert first != weights_identity(NAME)
    with torch.no_grad():
        saved.token_embedding.weight.add_(1.0)
    torch.save(saved.state_dict(), path)
    assert path.name in first["weights"] and weights_identity(NAME, str(path)) != first, "trained anew"


def test_unknown_names_tags_and_files(tmp_path):
    with pytest.raises(ValueError, match="MODEL.CLIP.NAME 'no_model'"):
        load_openclip("no_model")
    with pytest.raises(ValueError, match="laion2b_s29b_b131k_ft_soup"):
        load_openclip("convnext_large_d_320", "no_tag")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="broken.pt"):
        load_openclip(NAME, str(broken))
