"""Names to normalised text embeddings, computed once and cached on disk (SPEC section 5).

Letters: N names, T text width.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..data.register_psg import get_vocabulary
from ..structures import TextEmbeddings
from ..utils.files import cache_folder, remove_temporary_files, write_whole
from ..utils.lazy_module import LazyModule
from ..utils.text import spoken_name
from ..vocabulary import Vocabulary, check_template
from .openclip import load_openclip, takes_checkpoint_weights, weights_identity

if TYPE_CHECKING:
    import open_clip
else:
    open_clip = LazyModule("open_clip")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phrases:
    """A vocabulary in the words that the text tower is given.

    Attributes:
        objects, predicates: names; commas separate synonyms.
        object_templates, predicate_templates: prompts with a "{}".
    """

    objects: tuple[str, ...]
    predicates: tuple[str, ...]
    object_templates: tuple[str, ...]
    predicate_templates: tuple[str, ...]

    @classmethod
    def of(cls, cfg: CfgNode, vocabulary: Vocabulary) -> Phrases:
        """The vocabulary's own prompts, or else those of MODEL.CLIP."""
        return cls(
            vocabulary.with_synonyms(vocabulary.object_classes),
            vocabulary.with_synonyms(vocabulary.predicate_classes),
            vocabulary.object_templates or tuple(cfg.MODEL.CLIP.OBJECT_TEMPLATES),
            vocabulary.predicate_templates or tuple(cfg.MODEL.CLIP.PREDICATE_TEMPLATES),
        )


def configured_vocabulary(cfg: CfgNode, dataset_name: str | None) -> Vocabulary:
    """The names that a config looks for.

    Args:
        cfg: MODEL.USG.VOCABULARY, if set, gives prompts and synonyms.
        dataset_name: a registered data set, whose names are taken in its order; None takes those of the file.

    Raises:
        ValueError: if the file lacks names of the data set, or there is neither.
    """
    path = cfg.MODEL.USG.VOCABULARY
    file = Vocabulary.read(path) if path else None
    if dataset_name is None:
        if file is None:
            raise ValueError("a vocabulary is needed: DATASETS.TRAIN or DATASETS.TEST, or MODEL.USG.VOCABULARY")
        return file
    own = get_vocabulary(dataset_name)
    if file is None:
        return own
    file.check_covers(dataset_name, own)
    if unused := file.number_beyond(own):
        logger.info("%d names of %s are not in %s and take no part", unused, path, dataset_name)
    return file.renamed(own)


def embed_vocabulary(cfg: CfgNode, vocabulary: Vocabulary) -> TextEmbeddings:
    """Text embeddings of a vocabulary: its own if they are of the config's text tower, or else made by that."""
    phrases, known = Phrases.of(cfg, vocabulary), vocabulary.embeddings
    if known is not None and (takes_checkpoint_weights() or known.tower == text_identity(cfg)):
        names = vocabulary.predicate_classes, phrases.objects
        return TextEmbeddings(known.objects, known.predicates, vocabulary.is_thing, *names)
    return TextEmbeddings(
        configured_embeddings(cfg, phrases.objects, phrases.object_templates),
        configured_embeddings(cfg, phrases.predicates, phrases.predicate_templates),
        vocabulary.is_thing,
        vocabulary.predicate_classes,  # the data set's names, whatever synonyms a file has for them
        phrases.objects,
    )


def configured_embeddings(cfg: CfgNode, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """`text_embeddings` by the text tower of a config."""
    clip = cfg.MODEL.CLIP
    return text_embeddings(
        names,
        templates,
        model=clip.NAME,
        pretrained=clip.PRETRAINED,
        sentence_encoder=cfg.MODEL.USG.SENTENCE_ENCODER,
        cache_dir=clip.TEXT_CACHE,
        device=cfg.MODEL.DEVICE if torch.cuda.is_available() else "cpu",
    )


def text_identity(cfg: CfgNode) -> dict[str, str]:
    """Of the text tower of a config, for caches and checkpoints."""
    return _identity(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, cfg.MODEL.USG.SENTENCE_ENCODER)


def _identity(model: str, pretrained: str, sentence_encoder: str) -> dict[str, str]:
    if not sentence_encoder:
        return weights_identity(model, pretrained)
    folder = Path(sentence_encoder)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) if folder.is_dir() else 0
    return {"model": folder.name if size else sentence_encoder, "weights": f"sentence-transformers, {size} bytes"}


def check_sentence_encoder() -> None:
    """Raise ValueError if sentence-transformers is missing."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ValueError("MODEL.USG.SENTENCE_ENCODER: needs sentence-transformers (pip install usg_psg[text])")


def check_vocabulary(names: Sequence[str], templates: Sequence[str]) -> None:
    """Raise ValueError for names or prompt templates that cannot be encoded."""
    if not names:
        raise ValueError("a vocabulary needs at least one name, got none")
    bad = [name for name in names if not isinstance(name, str) or not name.strip()]
    if bad:
        raise ValueError(f"vocabulary names must be non-empty strings, got {bad[:3]!r}")
    if bad := [name for name in names if not all(word.strip() for word in name.split(","))]:
        raise ValueError(f"commas separate synonyms, which must not be empty, got {bad[:3]!r}")
    if not templates:
        raise ValueError("there must be at least one prompt template, got none")
    for template in templates:
        check_template(template)


@dataclass(frozen=True)
class OpenCLIPText:
    """Texts to normalised embeddings by the text tower of an OpenCLIP model."""

    clip: open_clip.CLIP
    tokenizer: Callable

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, T) on the device."""
        return self.clip.encode_text(self.tokenizer(texts).to(next(self.clip.parameters()).device), normalize=True)


class SentenceEncoder:
    """The same by a model of sentence-transformers, by its name on the Hub or its folder."""

    def __init__(self, name: str, device: str):
        check_sentence_encoder()
        from sentence_transformers import SentenceTransformer

        try:
            self.model = SentenceTransformer(name, device=device)
        except Exception as error:
            raise ValueError(f"MODEL.USG.SENTENCE_ENCODER {name!r} cannot be loaded: {error}") from error

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, T) on the device."""
        return F.normalize(self.model.encode(texts, convert_to_tensor=True, show_progress_bar=False).float(), dim=-1)


@torch.no_grad()
def encode_names(
    encode: Callable[[list[str]], Tensor], names: Sequence[str], templates: Sequence[str], batch_size: int = 256
) -> Tensor:
    """Mean of the normalised embeddings of a name in every template, normalised again.

    Args:
        encode: N texts to (N, T) normalised embeddings.
        names: N names; commas separate synonyms, which are averaged as templates are.
        templates: prompts with a "{}".
        batch_size: texts encoded at once.

    Returns:
        (N, T) float32 on the CPU, unit length.
    """
    check_vocabulary(names, templates)
    texts, owner = [], []
    for index, name in enumerate(names):
        for word in name.split(","):
            for template in templates:
                texts.append(template.format(spoken_name(word)))
                owner.append(index)
    parts = [encode(texts[i : i + batch_size]).float().cpu() for i in range(0, len(texts), batch_size)]
    embeddings = torch.cat(parts)
    total = torch.zeros(len(names), embeddings.shape[1]).index_add_(0, torch.tensor(owner), embeddings)
    return F.normalize(total, dim=-1)


def text_embeddings(
    names: Sequence[str],
    templates: Sequence[str],
    *,
    model: str,
    pretrained: str = "",
    sentence_encoder: str = "",
    cache_dir: str | Path = "",
    device: str = "cpu",
) -> Tensor:
    """Embeddings of names, from the cache or from the text tower, which is freed afterwards.

    Args:
        names: N names.
        templates: prompts with a "{}".
        model, pretrained: as in `load_openclip`.
        sentence_encoder: takes that model's place, if not "".
        cache_dir: folder of the cache; "" means $USG_PSG_CACHE, else ~/.cache/usg_psg. An unreadable entry is
            computed again; a folder that cannot be written costs a warning.
        device: where the text tower runs, in float32.

    Returns:
        (N, T) float32 on the CPU, unit length.
    """
    check_vocabulary(names, templates)
    key = json.dumps(
        {**_identity(model, pretrained, sentence_encoder), "templates": list(templates), "names": list(names)},
        sort_keys=True,
    )
    path = Path(cache_dir or cache_folder()) / f"text_{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    cached = _read_cache(path, key, len(names))
    if cached is not None:
        return cached
    tower: Callable[[list[str]], Tensor]
    if sentence_encoder:
        tower = SentenceEncoder(sentence_encoder, device)
    else:
        tower = OpenCLIPText(load_openclip(model, pretrained).to(device), _tokenizer(model))
    embeddings = encode_names(tower, names, templates)
    _write_cache(path, key, embeddings)
    return embeddings


def _tokenizer(model: str) -> Callable:
    try:
        return open_clip.get_tokenizer(model)
    except Exception as error:  # those of some models are downloaded, or need another package
        raise ValueError(f"MODEL.CLIP.NAME {model!r}: its tokenizer cannot be had: {error}") from error


def _read_cache(path: Path, key: str, num_names: int) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                raise ValueError("it belongs to another vocabulary")
            embeddings = file.get_tensor("embeddings")
        if embeddings.ndim != 2 or len(embeddings) != num_names or not torch.isfinite(embeddings).all():
            raise ValueError(f"it holds {tuple(embeddings.shape)} values, expected {num_names} finite rows")
    except (
        SafetensorError,
        ValueError,
        OSError,
        RuntimeError,
    ) as error:  # the last is torch's, which opens the file too
        # Another process may have taken it away, and even made it again since. Not all of these errors have a number.
        if path.is_file() and os.strerror(errno.ENOENT) not in str(error):
            logger.warning("text cache %s is unusable and will be computed again: %s", path, error)
        return None
    return embeddings


def _write_cache(path: Path, key: str, embeddings: Tensor) -> None:
    """Whole or not at all, so that several processes can do it at once."""
    content = save({"embeddings": embeddings.contiguous()}, metadata={"key": key})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_temporary_files(path.parent, unused_seconds=3600)
        write_whole(path, lambda file: file.write(content))
    except OSError as error:
        logger.warning("text cache %s could not be written: %s", path, error)
