"""How many objects, relations and pairs of each kind a PSG file has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .psg_categories import PSGVocabulary
from .psg_json import PARTITION, open_psg, select_split


def dataset_statistics(json_file: str | Path) -> dict:
    """Counts of a PSG file's valid records, by split; no picture is opened.

    Returns:
        {"file", "splits": {split: {"images", "invalid_images", "images_without_relations", "objects", "things",
        "stuff", "crowd", "relations", "related_pairs" (ordered pairs of segments with a relation),
        "objects_per_image", "relations_per_image" (means), "categories", "predicates" (counts by name, all of the
        vocabulary), "category_pairs" and "triplets" (counts by "subject | object" and "subject | predicate | object",
        most frequent first)}}}. Relations of a segment to itself are left out, as in training; exact duplicates count.

    Raises:
        as `read_psg_json`.
    """
    content = open_psg(json_file)
    splits = {}
    for split in PARTITION:
        positions = select_split(content.image_ids, content.test_image_ids, split)
        valid = [i for i in positions if not any(f.fatal for f in content.record_faults(i))]
        splits[split] = _split_statistics((content.dataset_dict(i, Path()) for i in valid), content.vocabulary)
        splits[split]["invalid_images"] = len(positions) - len(valid)
    return {"file": str(json_file), "splits": splits}


def _split_statistics(dicts: Iterable[dict], vocabulary: PSGVocabulary) -> dict[str, Any]:
    names, predicates = vocabulary.object_classes, vocabulary.predicate_classes
    counts: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    used: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    triplets: Counter[tuple[str, str, str]] = Counter()
    for each in dicts:
        segments, relations = each["segments_info"], each["relations"]
        counts.update(
            images=1,
            images_without_relations=not relations,
            objects=len(segments),
            things=sum(s["isthing"] for s in segments),
            crowd=sum(s["iscrowd"] for s in segments),
            relations=len(relations),
            related_pairs=len({(s, o) for s, o, _ in relations}),
        )
        label = [names[s["category_id"]] for s in segments]
        categories.update(label)
        used.update(predicates[p] for _, _, p in relations)
        pairs.update((label[s], label[o]) for s, o, _ in relations)
        triplets.update((label[s], predicates[p], label[o]) for s, o, p in relations)
    keys = ("images", "images_without_relations", "objects", "things", "crowd", "relations", "related_pairs")
    result: dict[str, Any] = {key: int(counts[key]) for key in keys}
    result["stuff"] = result["objects"] - result["things"]
    images = max(result["images"], 1)
    result["objects_per_image"] = round(result["objects"] / images, 3)
    result["relations_per_image"] = round(result["relations"] / images, 3)
    result["categories"] = {name: categories[name] for name in names}
    result["predicates"] = {name: used[name] for name in predicates}
    result["category_pairs"] = {" | ".join(key): count for key, count in pairs.most_common()}
    result["triplets"] = {" | ".join(key): count for key, count in triplets.most_common()}
    return result


def format_statistics(statistics: dict) -> list[list]:
    """Rows of a table: a name, then its number in each split."""
    splits = statistics["splits"]
    first = next(iter(splits.values()))
    rows = [[key, *(s[key] for s in splits.values())] for key, value in first.items() if not isinstance(value, dict)]
    for key, title in (("categories", "categories in use"), ("predicates", "predicates in use")):
        rows.append([title, *(sum(n > 0 for n in s[key].values()) for s in splits.values())])
    for key, title in (("category_pairs", "kinds of pairs"), ("triplets", "kinds of triplets")):
        rows.append([title, *(len(s[key]) for s in splits.values())])
    return rows


def predicate_figure(statistics: dict) -> Figure:
    """How often each predicate occurs in each split, most frequent first, on a logarithmic axis."""
    splits = statistics["splits"]
    total: Counter[str] = Counter()
    for split in splits.values():
        total.update(split["predicates"])
    names = [name for name, _ in total.most_common()]
    figure = Figure(figsize=(max(4, 0.24 * len(names) + 1), 4))
    axes = figure.subplots()
    width = 0.8 / len(splits)
    for k, (split, values) in enumerate(splits.items()):
        offset = (k - (len(splits) - 1) / 2) * width
        axes.bar(np.arange(len(names)) + offset, [values["predicates"][n] for n in names], width, label=split)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set(ylabel="relations", xlim=(-0.6, len(names) - 0.4))
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure
