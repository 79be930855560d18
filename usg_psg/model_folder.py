"""Models to pass on: a folder, or a repository on the Hugging Face Hub, that needs neither data set nor recipe.

A folder has config.yaml, model.safetensors (a frozen backbone that OpenCLIP gives again may be left out),
vocabulary.safetensors (names and their text embeddings) and README.md, the model card. Nothing in it can run code.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save
from tabulate import tabulate

from .config import add_usg_config, build_cfg
from .config.files import UntrustedImportsError, merge_overrides
from .engine.checkpoint import BACKBONE
from .engine.checkpoint_file import check_suffix
from .modeling.build import backbone_keys, parts_are_known
from .utils.files import write_whole
from .utils.weights_file import RECORDS_KEY, SUFFIXES
from .vocabulary import Vocabulary

CONFIG, WEIGHTS, VOCABULARY, CARD = "config.yaml", "model.safetensors", "vocabulary.safetensors", "README.md"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
SHOWN = re.compile(r"(^|/)(m?R@(20|50|100)|[PSR]Q)$")  # metrics of a card


def model_config(source: str | Path, opts: Sequence[str] = (), *, trust_imports: bool = False, **hub: Any) -> CfgNode:
    """The config of a trained model, with its weights and names set.

    Args:
        source: a folder that `save_model` wrote, the OUTPUT_DIR of a training, a checkpoint (.pth) of one, or
            "user/model" on the Hub.
        opts: KEY VALUE or KEY=VALUE overrides.
        trust_imports: import the modules that the config names; otherwise, where the file is not trusted, the model may
            have no part that only they know. Data sets do not matter.
        hub: revision, token, cache_dir, local_files_only and the like of `huggingface_hub.snapshot_download`.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if the Hub does not give it, it is no model of this project, or it needs a module that is not
            trusted; the message names both.
    """
    path = find_model(source, **hub)
    in_folder = path.is_dir()
    file = str(path / CONFIG if in_folder else path)
    try:
        cfg = build_cfg(file, trust_imports=trust_imports)
    except UntrustedImportsError:
        cfg = build_cfg(file, imports=False)
        if not parts_are_known(cfg):
            raise
        cfg.IMPORTS = []
    weights, vocabulary = (path / WEIGHTS, path / VOCABULARY) if in_folder else (path, path)
    cfg.MODEL.WEIGHTS, cfg.MODEL.USG.VOCABULARY = str(weights), str(vocabulary)
    cfg.MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE.SEEN = str(vocabulary)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    merge_overrides(cfg, list(opts))
    return cfg


def find_model(source: str | Path, **hub: Any) -> Path:
    """A local folder with the files of a model, or a checkpoint; downloaded where the source is a name on the Hub.

    Raises:
        as `model_config`.
    """
    path = Path(source)
    if path.is_file():
        check_suffix(str(path))
        return path
    if path.is_dir():
        last = path / "last_checkpoint"
        if not (path / WEIGHTS).is_file() and last.is_file():
            return path / last.read_text(encoding="utf-8").strip()
        missing = [name for name in (CONFIG, WEIGHTS, VOCABULARY) if not (path / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{path} is no folder of a model: it has no {', '.join(missing)}")
        return path
    if path.suffix in SUFFIXES or not HUB_NAME.fullmatch(str(source)):
        raise FileNotFoundError(f"there is no file or folder {path.absolute()}; a model on the Hub is user/model")
    try:
        found = Path(snapshot_download(str(source), allow_patterns=[CONFIG, WEIGHTS, VOCABULARY], **hub))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{source}: there is no such folder, and the Hub does not give it: {reason}") from error
    return find_model(found)


def save_model(
    folder: str | Path,
    cfg: CfgNode,
    weights: Mapping[str, Any],
    vocabulary: Vocabulary,
    *,
    records: Mapping[str, Any],
    results: Mapping[str, Any] | None = None,
) -> Path:
    """Write the folder of a model.

    Args:
        folder: created if it is missing; files of an earlier model in it are replaced.
        cfg: of the model.
        weights: its state, with or without the backbone's.
        vocabulary: with embeddings.
        records: further entries of a checkpoint: `frozen_backbone` if the backbone is left out, `trained_on`, ...
        results: metrics by name, nested or not, for the card, and "dataset", on which they were measured; a results
            JSON has both. "notes" are further lines of the card.

    Returns:
        the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    defaults = get_cfg()
    add_usg_config(defaults)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.USG.VOCABULARY = WEIGHTS, VOCABULARY
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = defaults.MODEL.DEVICE, defaults.OUTPUT_DIR
    cfg.MODEL.CLIP.TEXT_CACHE, cfg.MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE.SEEN = "", ""
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.SOLVER.EMA.ENABLED = False  # the weights are the average already
    for keys in (cfg.MODEL.CLIP, cfg.MODEL.TIMM):
        if Path(keys.PRETRAINED).is_file():
            keys.PRETRAINED = Path(keys.PRETRAINED).name
    content = save(
        {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()},
        metadata={RECORDS_KEY: json.dumps(records)},
    )
    write_whole(folder / WEIGHTS, lambda file: file.write(content))
    vocabulary.save(folder / VOCABULARY)
    write_whole(folder / CONFIG, lambda file: file.write(cfg.dump().encode()))
    card = model_card(cfg, vocabulary, any(name.startswith(BACKBONE) for name in weights), records, results or {})
    write_whole(folder / CARD, lambda file: file.write(str(card).encode()))
    return folder


def push_folder(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload the folder of a model to the Hub; returns the address of the commit.

    Raises:
        ValueError: if the Hub refuses it.
    """
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=[CONFIG, WEIGHTS, VOCABULARY, CARD]
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ValueError(f"{repo_id}: the Hub refuses it: {str(error).strip().partition(chr(10))[0]}") from error
    return done.commit_url


def model_card(
    cfg: CfgNode,
    vocabulary: Vocabulary,
    has_backbone: bool,
    records: Mapping[str, Any],
    results: Mapping[str, Any],
) -> ModelCard:
    """What the model is, what it was trained on, its results and how to run it."""
    data = (records.get("trained_on") or {}).get("data", {})
    generated = bool(data) and set(data.values()) == {"generated"}
    tested = str(results.get("dataset", "not recorded"))
    metrics = {name: value for name, value in _flat(results) if isinstance(value, float) and SHOWN.search(name)}
    header = ModelCardData(
        library_name="usg_psg",
        pipeline_tag="image-segmentation",
        tags=["panoptic-scene-graph", "scene-graph-generation"],
        datasets=None,
        model_name="USG-Par" if metrics else None,
        eval_results=[EvalResult("image-segmentation", tested, tested, name, value) for name, value in metrics.items()]
        or None,
    )
    keys = backbone_keys(cfg)
    backbone = f"{cfg.MODEL.BACKBONE.NAME}, {keys.NAME}, started from {keys.PRETRAINED or 'random weights'}"
    counts = f"{len(vocabulary.thing_classes)} things, {len(vocabulary.stuff_classes)} stuff classes"
    lines = [
        "# USG-Par: panoptic scene graphs of images",
        "",
        "One RGB image in; masks, labels and scored (subject, predicate, object) relations out.",
        "",
        "```python",
        "from usg_psg import SceneGraphPredictor",
        'graph = SceneGraphPredictor.from_pretrained("path or user/model")("photo.jpg")',
        "print(graph.constrained().top(10).to_json())",
        "```",
        "",
        f"- Backbone: {backbone}; its weights are {'in this folder' if has_backbone else 'downloaded by its library'}.",
        f"- Names: {counts}, {len(vocabulary.predicate_classes)} predicates, with their text embeddings.",
        f"- Training data: {', '.join(data) or 'not recorded'}"
        + (": generated drawings alone, so do not expect it to understand photographs." if generated else "."),
        *(f"- {note}" for note in results.get("notes", ())),
        "",
        "## Results",
        "",
        *([f"Percent; test data: {tested}.", "", _table(metrics)] if metrics else ["None are recorded."]),
    ]
    return ModelCard(f"---\n{header.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n")


def _table(metrics: Mapping[str, float]) -> str:
    """Markdown: a row for each evaluation and protocol, which names of metrics begin with; a column for each metric."""
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in metrics.items():
        *evaluation, metric = (part for part in name.split("/") if part not in ("evaluations", "metrics"))
        rows[" ".join(evaluation)][metric] = value
    columns = dict.fromkeys(metric for row in rows.values() for metric in row)
    cells = [(evaluation, *map(row.get, columns)) for evaluation, row in rows.items()]
    return tabulate(cells, ("evaluation", *columns), tablefmt="pipe", floatfmt=".2f", missingval="–")


def _flat(results: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in results.items():
        pairs += _flat(value, f"{prefix}{name}/") if isinstance(value, Mapping) else [(prefix + name, value)]
    return pairs
