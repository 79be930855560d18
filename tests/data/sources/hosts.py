"""A web server on the loopback that is COCO's and the Hub at once, and toy data of the same layout."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from usg_psg.data import PSG_VOCABULARY, encode_panoptic

REPOSITORY, COMMIT = "somebody/PSG-coco-format", "1" * 40
# Of each category its COCO id, as the panoptic JSON has them: with gaps.
COCO_ID = {i: i + 1 + i // 10 for i in range(len(PSG_VOCABULARY.object_classes))}


class Hosts:
    """The server.

    Attributes:
        files: content by path of the URL.
        url: where it listens.
        requests: "METHOD path bytes=..." in order.
        before_write: called with a path and the bytes sent so far of an answer; an error breaks the connection.
        ranges: whether it heeds requests for a part of a file.
        moved: URL of another place, by path.
    """

    def __init__(self, files: dict[str, bytes]):
        self.files, self.requests, self.ranges = files, [], True
        self.moved: dict[str, str] = {}
        self.before_write: Callable[[str, int], None] = lambda path, sent: None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def put_hub(self, files: dict[str, bytes], repository: str = REPOSITORY) -> None:
        """Serve files as the data set's."""
        for name, content in files.items():
            self.files[f"/datasets/{repository}/resolve/{COMMIT}/{name}"] = content
        info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        for suffix in ("", "/revision/main", f"/revision/{COMMIT}"):
            self.files[f"/api/datasets/{repository}{suffix}"] = json.dumps(info).encode()
        entries = [{"type": "file", "path": n, "size": len(c), "oid": _etag(c)} for n, c in files.items()]
        for folder in {name.rpartition("/")[0] for name in files}:
            inside = [entry for entry in entries if entry["path"].rpartition("/")[0] == folder]
            self.files[f"/api/datasets/{repository}/tree/{COMMIT}/{folder}".rstrip("/")] = json.dumps(inside).encode()


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hosts]:
    """Run a server of these files."""
    hosts = Hosts(files)
    thread = threading.Thread(target=hosts.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hosts
    finally:
        hosts.server.shutdown()
        hosts.server.server_close()
        thread.join()


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _handler(hosts: Hosts) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            path = self.path.partition("?")[0]
            hosts.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            content = hosts.files.get(path)
            if content is None:
                self.send_response(302 if path in hosts.moved else 404)
                self.send_header("Location", hosts.moved.get(path, ""))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            etag, start, total = _etag(content), 0, len(content)
            if wanted and hosts.ranges:
                start = int(wanted[1])
                content = content[start : int(wanted[2]) + 1 if wanted[2] else None]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{total}")
            else:
                self.send_response(200)
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            try:
                for at in range(0, len(content), 4096):
                    hosts.before_write(path, start + at)
                    self.wfile.write(content[at : at + 4096])
            except OSError:
                self.close_connection = True

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    return Handler


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def picture(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def psg_image(image_id: int, part: str, seed: int) -> tuple[dict, bytes, bytes]:
    """A record of psg.json, its JPEG and its PNG: a person, another beside it, a crowd, a tree."""
    rng = np.random.default_rng(seed)
    label_map, categories = (
        np.zeros((40, 60), dtype=np.int64),
        [0, 0, 0, PSG_VOCABULARY.object_classes.index("tree-merged")],
    )
    for i in range(4):
        label_map[4:36, 15 * i + 1 : 15 * i + 10 + int(rng.integers(4))] = i + 1
    ids = np.array([0, *rng.choice(2**24 - 1, 4, replace=False) + 1])
    segments, annotations = [], []
    for i, category in enumerate(categories):
        rows, columns = np.nonzero(label_map == i + 1)
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        segment = {"id": int(ids[i + 1]), "category_id": category, "iscrowd": int(i == 2), "isthing": int(i < 3)}
        segments.append({**segment, "area": len(rows)})
        annotations.append({"bbox": box, "bbox_mode": 0, "category_id": category})
    record = {
        "image_id": str(image_id),
        "coco_image_id": str(image_id),
        "file_name": f"{part}/{image_id:012}.jpg",
        "pan_seg_file_name": f"panoptic_{part}/{image_id:012}.png",
        "height": 40,
        "width": 60,
        "segments_info": segments,
        "annotations": annotations,
        "relations": [[0, 3, 0], [1, 0, 2], [0, 3, 14]],
    }
    noise = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return record, picture(noise, "JPEG"), picture(encode_panoptic(ids[label_map]), "PNG")


def psg_content(images: int = 6) -> tuple[dict, dict[str, bytes]]:
    """psg.json and its pictures: the last third are val2017's, and the last one of all is a test image."""
    records, pictures = [], {}
    for i in range(images):
        part = "val2017" if 3 * i >= 2 * images else "train2017"
        record, jpeg, png = psg_image(9 + 16 * i, part, i)
        records.append(record)
        pictures |= {record["file_name"]: jpeg, record["pan_seg_file_name"]: png}
    names = {key: list(value) for key, value in PSG_VOCABULARY.names.items()}
    return {**names, "data": records, "test_image_ids": [records[-1]["image_id"]]}, pictures


def coco_json(records: list[dict]) -> dict:
    """COCO's panoptic JSON of records of psg.json, segments in another order."""
    images, annotations = [], []
    for record in records:
        image_id, segments = int(record["coco_image_id"]), []
        for segment, annotation in list(zip(record["segments_info"], record["annotations"], strict=True))[::-1]:
            x0, y0, x1, y1 = annotation["bbox"]
            own = {key: segment[key] for key in ("id", "iscrowd", "area")}
            segments.append({**own, "category_id": COCO_ID[segment["category_id"]], "bbox": [x0, y0, x1 - x0, y1 - y0]})
        names = Path(record["file_name"]).name, Path(record["pan_seg_file_name"]).name
        images.append({"id": image_id, "file_name": names[0], "height": record["height"], "width": record["width"]})
        annotations.append({"image_id": image_id, "file_name": names[1], "segments_info": segments})
    things = len(PSG_VOCABULARY.thing_classes)
    categories = [
        {"id": COCO_ID[i], "name": name, "isthing": int(i < things)}
        for i, name in enumerate(PSG_VOCABULARY.object_classes)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_archives(content: dict, pictures: dict[str, bytes]) -> dict[str, bytes]:
    """COCO's three archives by their path below its URL; each has an image that psg.json lacks."""
    panoptic: dict[str, bytes] = {"__MACOSX/._annotations": b"rubbish"}
    archives = {}
    for part in ("train2017", "val2017"):
        records = [r for r in content["data"] if r["file_name"].startswith(f"{part}/")]
        other, jpeg, png = psg_image(900_000 + len(part), part, 99)
        jpegs = {r["file_name"]: pictures[r["file_name"]] for r in records} | {other["file_name"]: jpeg}
        pngs = {r["pan_seg_file_name"]: pictures[r["pan_seg_file_name"]] for r in records}
        archives[f"/zips/{part}.zip"] = zipped(jpegs)
        panoptic[f"annotations/panoptic_{part}.json"] = json.dumps(coco_json([*records, other])).encode()
        inner = {**pngs, other["pan_seg_file_name"]: png, f"__MACOSX/panoptic_{part}/._x.png": b""}
        panoptic[f"annotations/panoptic_{part}.zip"] = zipped(inner)
    archives["/annotations/panoptic_annotations_trainval2017.zip"] = zipped(panoptic)
    return archives


def hub_rows(content: dict, pictures: dict[str, bytes], records: list[dict]) -> list[dict]:
    """Rows of the Hub's layout, of records of psg.json."""
    rows = []
    for record in records:
        first, objects = 100 * int(record["image_id"]), []
        for i, (segment, annotation) in enumerate(zip(record["segments_info"], record["annotations"], strict=True)):
            x0, y0, x1, y1 = annotation["bbox"]
            obj = {"id": first + i, "category_id": segment["category_id"] + 1, "iscrowd": segment["iscrowd"]}
            box = [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]
            objects.append({**obj, "bbox": box, "area": float(segment["area"]), "segmentation": []})
        relations = [
            {"id": i, "subject_id": first + s, "object_id": first + o, "predicate_id": p + 1}
            for i, (s, o, p) in enumerate(record["relations"])
        ]
        name = Path(record["file_name"]).name
        image = {"bytes": pictures.get(record["file_name"], b""), "path": name}
        own = {"image_id": int(record["coco_image_id"]), "width": record["width"], "height": record["height"]}
        rows.append({"image": image, **own, "file_name": name, "objects": objects, "relations": relations})
    return rows


_OBJECT = pyarrow.struct(
    [
        ("id", pyarrow.int64()),
        ("category_id", pyarrow.int64()),
        ("bbox", pyarrow.list_(pyarrow.float64())),
        ("area", pyarrow.float64()),
        ("iscrowd", pyarrow.int64()),
        ("segmentation", pyarrow.list_(pyarrow.list_(pyarrow.float64()))),
    ]
)
_RELATION = pyarrow.struct([(key, pyarrow.int64()) for key in ("id", "subject_id", "object_id", "predicate_id")])
_SCHEMA = pyarrow.schema(
    [
        ("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
        *((key, pyarrow.int64()) for key in ("image_id", "width", "height")),
        ("file_name", pyarrow.string()),
        ("objects", pyarrow.list_(_OBJECT)),
        ("relations", pyarrow.list_(_RELATION)),
    ]
)


def parquet_file(rows: list[dict], description: str = "") -> bytes:
    metadata = {"huggingface": json.dumps({"info": {"description": description}})}
    file = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows, schema=_SCHEMA.with_metadata(metadata))
    parquet.write_table(table, file, row_group_size=2)
    return file.getvalue()


def names_json(content: dict) -> str:
    """categories.json: ids count from 1."""
    names = [*content["thing_classes"], *content["stuff_classes"]], content["predicate_classes"]
    keys = ("categories", "rel_categories")
    return json.dumps(
        {k: [{"id": i + 1, "name": n} for i, n in enumerate(v)] for k, v in zip(keys, names, strict=True)}
    )


def hub_files(content: dict, pictures: dict[str, bytes]) -> dict[str, bytes]:
    """The Hub's files: test images, one to validate on, and the others in two files to train on."""
    test = [r for r in content["data"] if r["image_id"] in content["test_image_ids"]]
    others = [r for r in content["data"] if r not in test]
    splits = {
        "train-00000-of-00002": others[: len(others) // 2],
        "train-00001-of-00002": others[len(others) // 2 : -1],
        "val-00000-of-00001": others[-1:],
        "test-00000-of-00001": test,
    }
    files = {f"data/{k}.parquet": parquet_file(hub_rows(content, pictures, v)) for k, v in splits.items()}
    return {"README.md": b"", "categories.json": names_json(content).encode(), **files}
