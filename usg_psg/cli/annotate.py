"""Writes tasks for annotation tools."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data import read_psg_json
from ..data.label_studio import Scene, labeling_config, scene_of_graph, scene_of_record, task_of
from ..images import read_image
from ..scene_graph import SceneGraph
from ..utils.files import write_json
from ..utils.text import counted
from ..vocabulary import Vocabulary
from .demo import SUFFIXES

Pending = tuple[dict[str, Any], dict | None]  # data of an image's task, and its dataset dict, if it has one


def run(args: Namespace) -> None:
    """Write tasks.json, labeling.xml and vocabulary.json."""
    if args.json is None:
        vocabulary = Vocabulary.read(args.vocabulary)
        images = _of_folder(args.image_root, args.test_share)
    else:
        content = read_psg_json(args.json)
        vocabulary, images = content.vocabulary, _of_dataset(content, args.image_root)
    chosen = set(args.image_ids or ())
    tasks, started = [], 0
    for data, record in tqdm(images, unit="image"):
        if chosen and data["image_id"] not in chosen:
            continue
        try:
            scene = _scene(data, record, vocabulary, args)
        except ValueError as error:
            raise ValueError(f"image_id {data['image_id']!r}: {error}") from error
        started += scene is not None
        kind = "predictions" if args.predictions else "annotations"
        tasks.append(task_of(data, scene, vocabulary, kind, args.url))
    counts = Counter(task["data"]["image_id"] for task in tasks)
    if repeated := [image_id for image_id, count in counts.items() if count > 1]:
        raise ValueError(f"image_id {repeated[0]!r}: two images have it, which cannot be told apart")
    if missing := chosen - set(counts):
        raise ValueError(f"--image-ids {min(missing)}: there is no such image")
    if not tasks:
        raise ValueError(f"--image-root {args.image_root}: there is no image")
    args.output.mkdir(parents=True)
    write_json(args.output / "tasks.json", tasks, indent=None)
    (args.output / "labeling.xml").write_text(labeling_config(vocabulary), encoding="utf-8")
    write_json(args.output / "vocabulary.json", {key: list(names) for key, names in vocabulary.names.items()})
    print(f"{args.output}: {counted(len(tasks), 'task')}, {started:,} of them with regions to start from")


def _of_dataset(content: Any, root: Path) -> Iterator[Pending]:
    for position, image_id in enumerate(content.image_ids):
        if error := next((found for found in content.validate_record(position) if found.is_error), None):
            raise ValueError(error.describe(content.path))
        raw, record = content.records[position], content.dataset_dict(position, root.resolve())
        data = {key: raw[key] for key in ("file_name", "pan_seg_file_name", "height", "width")}
        crowd = [segment["id"] for segment in record["segments_info"] if segment["iscrowd"]]
        split = "test" if image_id in content.test_image_ids else "train"
        yield {"image_id": image_id, **data, "split": split, **({"crowd": crowd} if crowd else {})}, record


def _of_folder(root: Path, test_share: float) -> Iterator[Pending]:
    """Images of a folder and those below; a hash of the id chooses those to test on, so that most stay as they grow."""
    found = {path: path.relative_to(root) for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES}
    ids = {path: name.with_suffix("").as_posix() for path, name in found.items()}
    by_hash = sorted(ids.values(), key=lambda image_id: hashlib.sha1(image_id.encode()).digest())
    tested = set(by_hash[: round(test_share * len(by_hash))])
    for path, name in found.items():
        height, width = read_image(str(path), image_id=ids[path]).shape[:2]
        data = {"file_name": name.as_posix(), "height": height, "width": width}
        yield {"image_id": ids[path], **data, "split": "test" if ids[path] in tested else "train"}, None


def _scene(data: dict[str, Any], record: dict | None, vocabulary: Vocabulary, args: Namespace) -> Scene | None:
    """The prediction of an image, where predictions were asked for, or else its annotation; None where it has none."""
    if args.predictions is None:
        return None if record is None else scene_of_record(record)
    path = args.predictions / f"{Path(data['file_name']).stem}.json"
    if not path.is_file():
        return None
    try:
        graph = SceneGraph.from_json(path.read_text(encoding="utf-8")).constrained().top(args.top_k)
        if (graph.height, graph.width) != (data["height"], data["width"]):
            raise ValueError(f"expected {data['height']} x {data['width']}, got {graph.height} x {graph.width}")
        return scene_of_graph(graph, vocabulary)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
