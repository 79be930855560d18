"""How many objects, relations and pairs of each kind a PSG file has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...vocabulary import Vocabulary
from ..psg_json import PARTITION, invalid_positions, open_psg, select_split


def dataset_statistics(json_file: str | Path) -> dict:
    """Counts of a PSG file's valid records, by split; no image is opened.

    Returns:
        {"file", "splits": {split: {"images", "invalid_images", "images_without_relations", "objects", "things",
        "stuff", "crowd", "relations", "related_pairs" (ordered pairs of segments with a relation),
        "objects_per_image", "relations_per_image" (means), "thing_thing", "thing_stuff" (either way round),
        "stuff_stuff" (relations by what they connect, %), "objects_p10_p50_p90" (objects an image, "a / b / c"),
        "area_p10_p50_p90" (of the segments, % of the image), "landscape", "portrait" (images, %), "predicate_head"
        (relations that the four most frequent predicates have, %), "zipf_exponent", "categories", "predicates" (counts
        by name, all of the vocabulary), "category_pairs" and "triplets" (counts by "subject | object" and "subject |
        predicate | object", most frequent first)}}}. As in training, relations of a segment to itself are left out and
        repeated ones count once.

    Raises:
        as `read_psg_json`.
    """
    content = open_psg(json_file)
    splits = {}
    for split in PARTITION:
        positions = select_split(content.image_ids, content.test_image_ids, split)
        invalid = invalid_positions(content, positions)
        valid = [i for i in positions if i not in invalid]
        splits[split] = _split_statistics((content.dataset_dict(i, Path()) for i in valid), content.vocabulary)
        splits[split]["invalid_images"] = len(invalid)
    return {"file": str(json_file), "splits": splits}


def _split_statistics(dicts: Iterable[dict], vocabulary: Vocabulary) -> dict[str, Any]:
    names, predicates = vocabulary.object_classes, vocabulary.predicate_classes
    counts: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    used: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    triplets: Counter[tuple[str, str, str]] = Counter()
    num_objects, areas = [], []
    for each in dicts:
        segments, relations = each["segments_info"], list(dict.fromkeys(map(tuple, each["relations"])))
        num_objects.append(len(segments))
        areas += [100 * s["area"] / (each["height"] * each["width"]) for s in segments]
        ends = [segments[s]["isthing"] + segments[o]["isthing"] for s, o, _ in relations]
        counts.update(
            images=1,
            images_without_relations=not relations,
            objects=len(segments),
            things=sum(s["isthing"] for s in segments),
            crowd=sum(s["iscrowd"] for s in segments),
            relations=len(relations),
            related_pairs=len({(s, o) for s, o, _ in relations}),
            stuff_stuff=ends.count(0),
            thing_stuff=ends.count(1),
            thing_thing=ends.count(2),
            landscape=each["width"] > each["height"],
            portrait=each["width"] < each["height"],
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
    for key in ("thing_thing", "thing_stuff", "stuff_stuff"):
        result[key] = round(100 * counts[key] / max(result["relations"], 1), 1)
    result["objects_p10_p50_p90"], result["area_p10_p50_p90"] = _percentiles(num_objects), _percentiles(areas)
    for key in ("landscape", "portrait"):
        result[key] = round(100 * counts[key] / images, 1)
    head = sum(count for _, count in used.most_common(4))
    result["predicate_head"] = round(100 * head / max(result["relations"], 1), 1)
    result["zipf_exponent"] = round(zipf_exponent(used.values()), 2)
    result["categories"] = {name: categories[name] for name in names}
    result["predicates"] = {name: used[name] for name in predicates}
    result["category_pairs"] = {" | ".join(key): count for key, count in pairs.most_common()}
    result["triplets"] = {" | ".join(key): count for key, count in triplets.most_common()}
    return result


def zipf_exponent(counts: Iterable[int]) -> float:
    """Exponent of Zipf's law, count ~ rank ** -exponent, by least squares on logarithms of the positive counts."""
    ordered = np.sort([count for count in counts if count > 0])[::-1]
    if len(ordered) < 2:
        return 0.0
    return -float(np.polyfit(np.log(np.arange(1, len(ordered) + 1)), np.log(ordered), 1)[0])


def _percentiles(values: list) -> str:
    return " / ".join(f"{v:.3g}" for v in np.percentile(values, [10, 50, 90])) if values else "-"


def format_statistics(statistics: dict) -> list[list]:
    """Rows of a table: a name, then its number in each split; at the end the predicates in use, most frequent first."""
    splits = statistics["splits"]
    first = next(iter(splits.values()))
    rows = [[key, *(s[key] for s in splits.values())] for key, value in first.items() if not isinstance(value, dict)]
    for key, title in (("categories", "categories in use"), ("predicates", "predicates in use")):
        rows.append([title, *(sum(n > 0 for n in s[key].values()) for s in splits.values())])
    for key, title in (("category_pairs", "kinds of pairs"), ("triplets", "kinds of triplets")):
        rows.append([title, *(len(s[key]) for s in splits.values())])
    total = _predicate_totals(statistics)
    rows += [[p, *(s["predicates"][p] for s in splits.values())] for p, n in total.most_common() if n]
    return rows


def _predicate_totals(statistics: dict) -> Counter[str]:
    total: Counter[str] = Counter()
    for split in statistics["splits"].values():
        total.update(split["predicates"])
    return total


def predicate_figure(statistics: dict) -> Figure:
    """How often each predicate occurs in each split, most frequent first, on a logarithmic axis."""
    splits = statistics["splits"]
    names = [name for name, _ in _predicate_totals(statistics).most_common()]
    figure = Figure(figsize=(max(4, 0.24 * len(names) + 1), 4))
    axes = figure.subplots()
    width = 0.8 / len(splits)
    for k, (split, values) in enumerate(splits.items()):
        offset = (k - (len(splits) - 1) / 2) * width
        axes.bar(np.arange(len(names)) + offset, [values["predicates"][n] for n in names], width, label=split)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
    axes.set(ylabel="relations", xlim=(-0.6, len(names) - 0.4))
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure
