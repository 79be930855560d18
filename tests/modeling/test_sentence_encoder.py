"""Names embedded by a model of sentence-transformers."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

from usg_psg.config import build_cfg
from usg_psg.config.checks import check_config
from usg_psg.engine.training_record import TrainingRecord, use_warnings
from usg_psg.modeling.text_embeddings import Phrases, configured_embeddings, text_identity

WORDS = Phrases(("person", "sky"), ("on",), ("a {}",), ("x {} y",))


class Encoder:
    """Stands in for a SentenceTransformer: counts letters."""

    def __init__(self, name, device):
        if "absent" in name:
            raise OSError(f"no model {name}")

    def encode(self, texts, convert_to_tensor, show_progress_bar):
        return torch.tensor([[3.0 * text.count(letter) for letter in "aeiou"] for text in texts])


@pytest.fixture
def cfg(monkeypatch, tmp_path):
    package = ModuleType("sentence_transformers")
    package.SentenceTransformer = Encoder
    monkeypatch.setitem(sys.modules, package.__name__, package)
    package.__spec__ = ModuleSpec(package.__name__, None)
    opts = ["MODEL.DEVICE", "cpu", "MODEL.USG.SENTENCE_ENCODER", "mini", "MODEL.CLIP.TEXT_CACHE", str(tmp_path)]
    return build_cfg("quickstart/usg_par_quickstart.yaml", opts)


def test_names_are_unit_vectors_of_the_encoder(cfg):
    found = configured_embeddings(cfg, ["dog", "tree,house"], ["{}"])
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0]))
    parts = torch.tensor([[0.0, 2.0, 0, 0, 0], [0, 1.0, 0, 1, 1]])
    mean = torch.nn.functional.normalize(torch.nn.functional.normalize(parts, dim=1).sum(0), dim=0)
    torch.testing.assert_close(found[1], mean)


def test_another_encoder_is_another_entry_of_the_cache_and_is_warned_of(cfg, tmp_path):
    configured_embeddings(cfg, ["dog"], ["{}"])
    other = cfg.clone()
    other.MODEL.USG.SENTENCE_ENCODER = ""
    assert configured_embeddings(other, ["dog"], ["{}"]).shape[1] != 5 and len(list(tmp_path.iterdir())) == 2
    record = TrainingRecord({}, text_identity(cfg), WORDS)
    assert use_warnings(record, cfg, WORDS) == []
    assert "in training by mini (sentence-transformers" in use_warnings(record, other, WORDS)[0]


def test_errors_name_the_key(cfg, monkeypatch):
    cfg.MODEL.USG.SENTENCE_ENCODER = "absent"
    with pytest.raises(ValueError, match="MODEL.USG.SENTENCE_ENCODER 'absent' cannot be loaded: no model absent"):
        configured_embeddings(cfg, ["dog"], ["{}"])
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match="MODEL.USG.SENTENCE_ENCODER: needs sentence-transformers"):
        check_config(cfg)
