"""Fetches PSG from hosts that live: images and segments of COCO, boxes and relations of the Hub, for psg.json."""

from __future__ import annotations

from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from ..data.coco_panoptic import psg_content, read_coco_panoptic
from ..data.psg_categories import PSG_VOCABULARY
from ..data.psg_json import read_psg_json
from ..data.sources.coco import ARCHIVES, PARTS
from ..data.sources.files import GIB, RemoteFile, extract, require_space
from ..data.sources.hub import HubDataset
from ..data.sources.rebuild import rebuild
from ..utils.files import write_json

# Bytes that an archive's files take, per byte of the archive. PSG has 48,749 of COCO's 123,287 images.
UNPACKED = {"panoptic": 2.2, "psg": 0.4, "all": 1.0}


def run(args: Namespace) -> None:
    """Say what is to come, ask the disk, fetch, rebuild psg.json, unpack."""
    root, psg_json = args.output / "coco", args.output / "psg" / "psg.json"
    wanted = _wanted_files(psg_json) if psg_json.exists() else {}
    archives = {}
    for name in ("panoptic",) if args.images == "none" else ARCHIVES:
        if args.images == "all" or not wanted or not _are_there(root, wanted, name):
            path, sha256 = ARCHIVES[name]
            archives[name] = RemoteFile.ask(
                f"{args.coco_url}/{path}", args.output / "archives" / Path(path).name, sha256
            )
    hub = None if psg_json.exists() else HubDataset.open(args.hub, args.revision, args.categories, args.hub_url)
    _say_plan(archives, hub, psg_json)
    share = {name: UNPACKED.get(name, UNPACKED.get(args.images, 0)) for name in archives}
    # Of an archive that is there, some is unpacked already; `extract` asks for the rest.
    require_space(args.output, sum(a.missing + a.size * share[n] for n, a in archives.items() if not a.path.exists()))
    if args.dry_run:
        return
    if "panoptic" in archives:
        archive = archives["panoptic"].fetch()
        extract(archive, root, [f"annotations/panoptic_{part}.json" for part in PARTS])
        extract(archive, archive.parent, [f"annotations/panoptic_{part}.zip" for part in PARTS])
    if hub is not None:
        _rebuild(hub, args, root, psg_json)
        wanted = _wanted_files(psg_json)
    for name in archives:
        for part in PARTS if name == "panoptic" else (name,):
            folder = f"panoptic_{part}" if name == "panoptic" else part
            inner = args.output / "archives" / "annotations" / f"{folder}.zip"
            packed = inner if name == "panoptic" else archives[name].fetch()
            extract(packed, root, None if args.images == "all" else wanted[folder])
    print(f"{args.output} is complete; the folder archives in it is no longer needed. Now check it:")
    print(f"usg-psg data check --json {psg_json} --image-root {root}")


def _wanted_files(psg_json: Path) -> Mapping[str, Sequence[str]]:
    """Files that psg.json names, by their folder."""
    wanted: dict[str, list[str]] = defaultdict(list)
    for record in read_psg_json(psg_json).records:
        for key in ("file_name", "pan_seg_file_name"):
            wanted[record[key].partition("/")[0]].append(record[key])
    if unknown := set(wanted) - {*PARTS, *(f"panoptic_{part}" for part in PARTS)}:
        raise ValueError(f"{psg_json}: the folder {min(unknown)!r} is none of COCO 2017's")
    return wanted


def _are_there(root: Path, wanted: Mapping[str, Sequence[str]], archive: str) -> bool:
    folders = [folder for folder in wanted if folder.startswith(archive)]
    return all((root / name).is_file() for folder in folders for name in wanted[folder])


def _say_plan(archives: Mapping[str, RemoteFile], hub: HubDataset | None, psg_json: Path) -> None:
    rows = [(a.url, a.path, f"{a.size / GIB:.2f}", f"{a.missing / GIB:.2f}") for a in archives.values()]
    print(tabulate(rows, headers=("from", "to", "GiB", "to fetch"), disable_numparse=True))
    if hub is None:
        print(f"{psg_json} is there and stays")
    else:
        print(f"{psg_json}: from {hub.repository} at {hub.commit}, {len(hub.shards)} files without their images")


def _rebuild(hub: HubDataset, args: Namespace, root: Path, psg_json: Path) -> None:
    cache = args.output / "archives" / "hub"
    rows = [(split, row) for split, shard in hub.shards for row in hub.annotations(shard, cache)]
    image_ids, records = {row["image_id"] for _, row in rows}, []
    for part in PARTS:
        json_file = root / "annotations" / f"panoptic_{part}.json"
        vocabulary, found = read_coco_panoptic(json_file, part, f"panoptic_{part}", image_ids=image_ids)
        if vocabulary != PSG_VOCABULARY:
            raise ValueError(f"{json_file}: its classes are not PSG's")
        records += found
    records, test_image_ids, report = rebuild(rows, hub.names, records, PSG_VOCABULARY, args.min_iou)
    if not records:
        raise ValueError(f"{hub.repository}: none of its images could be matched; {report.summary()}")
    psg_json.parent.mkdir(parents=True, exist_ok=True)
    report_file = psg_json.with_name("psg.report.json")
    write_json(report_file, {"source": f"{hub.repository}@{hub.commit}", **report.to_dict()})
    write_json(psg_json, psg_content(PSG_VOCABULARY, records, test_image_ids), indent=None)
    print(f"{psg_json}: {report.summary()}; each image is in {report_file}")
