"""Scene graphs for other programs: GraphML, GEXF, DOT, Turtle, JSON-LD and Neo4j's CSV; the JSON Schema of our own.

docs/visualization.md says what each format drops. The Python of networkx and rdflib writes and reads them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import networkx

from .scene_graph import FORMAT, VERSION, SceneGraph, SceneObject, SceneRelation
from .utils.extras import optional

if TYPE_CHECKING:
    import rdflib

SUFFIXES = {
    "json": (".json",),
    "graphml": (".graphml",),
    "gexf": (".gexf",),
    "dot": (".dot",),
    "turtle": (".ttl",),
    "json-ld": (".jsonld",),
    "csv": (".objects.csv", ".relations.csv"),
}
NEEDS = {"dot": "pydot", "turtle": "rdflib", "json-ld": "rdflib"}
NAMESPACE = "urn:usg_psg:scene-graph:1#"


def json_schema() -> dict:
    """The JSON Schema (draft 2020-12) of `SceneGraph.to_json`, by which other programs can check a file."""
    return json.loads(resources.files(__package__).joinpath("scene_graph.schema.json").read_text(encoding="utf-8"))


def check_formats(names: Iterable[str]) -> None:
    """Raise ValueError if one of the formats is unknown, or needs a package that is not installed."""
    for name in names:
        if name not in SUFFIXES:
            raise ValueError(f"format: expected one of {', '.join(SUFFIXES)}, got {name!r}")
        if name in NEEDS:
            optional(NEEDS[name], name, "graphs")


def save_graph(graph: SceneGraph, path: str | Path) -> None:
    """Write a graph in the format of the path's suffix (`SUFFIXES`); Neo4j's CSV is two files, written one by one.

    Raises:
        ValueError: if the suffix is unknown, or a package is missing.
        OSError: if the file cannot be written.
    """
    _WRITERS[_format(path)](graph, Path(path))


def read_graph(path: str | Path) -> SceneGraph:
    """Read what `save_graph` wrote; of Neo4j's CSV, either file names both. DOT, which lacks the masks, is not read.

    Raises:
        ValueError: if the suffix is unknown or the file is not a scene graph; names the file.
        OSError: if it cannot be read.
    """
    name = _format(path)
    if name not in _READERS:
        raise ValueError(f"{path}: {name} is written, not read")
    try:
        return SceneGraph.from_json(_READERS[name](Path(path)))
    except OSError:
        raise
    except Exception as error:  # of networkx, rdflib and their parsers of XML, each its own
        raise ValueError(f"{path}: not a scene graph in {name} ({type(error).__name__}: {error})") from error


def _format(path: str | Path) -> str:
    found = [name for name, suffixes in SUFFIXES.items() if str(path).endswith(suffixes)]
    if not found:
        known = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
        raise ValueError(f"{path}: expected a file that ends in {known}")
    check_formats(found)
    return found[0]


def _json_of(size: tuple[int, int], objects: list[dict], relations: list[dict]) -> str:
    """The text of `SceneGraph.to_json`, which `SceneGraph.from_json` checks; masks are JSON in a text."""
    for obj in objects:
        obj["mask"] = json.loads(obj["mask"])
    relations.sort(key=lambda relation: relation.pop("rank"))
    head = {"format": FORMAT, "version": VERSION, "height": size[0], "width": size[1]}
    return json.dumps({**head, "objects": objects, "relations": relations})


def _json_of_networkx(graph: networkx.MultiDiGraph) -> str:
    objects = [{key: value for key, value in graph.nodes[n].items() if key in _OBJECT} for n in sorted(graph.nodes)]
    relations = [
        {"subject": s, "object": o, **{k: v for k, v in edge.items() if k in _RELATION}}
        for s, o, edge in graph.edges(data=True)
    ]
    if not objects and "height" not in graph.graph:
        raise ValueError("it has no object, whose mask would tell the image's size")
    size = json.loads(objects[0]["mask"])["size"] if objects else (graph.graph["height"], graph.graph["width"])
    return _json_of(tuple(size), objects, relations)


_OBJECT = tuple(SceneObject.__dataclass_fields__)
_RELATION = (*SceneRelation.__dataclass_fields__, "rank")


def _write_dot(graph: SceneGraph, path: Path) -> None:
    """Names and predicates to be drawn; of quotes and backslashes, DOT takes neither unescaped."""

    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    drawn = networkx.MultiDiGraph()
    for index, obj in enumerate(graph.objects):
        drawn.add_node(index, label=text(obj.label), score=f"{obj.score:.6g}")
    for relation in graph.relations:
        drawn.add_edge(relation.subject, relation.object, label=text(relation.predicate), score=f"{relation.score:.6g}")
    networkx.nx_pydot.write_dot(drawn, path)


def _rdf(graph: SceneGraph) -> rdflib.Graph:
    """Relative IRIs, so that files of several images can be put together under their own names."""
    rdflib = import_module("rdflib")
    ours, made = rdflib.Namespace(NAMESPACE), rdflib.Graph()
    made.bind("sg", ours)
    made.bind("predicate", rdflib.Namespace(f"{NAMESPACE}predicate/"))

    def add(name: str, kind: str, values: dict[str, Any]) -> None:
        made.add((rdflib.URIRef(name), rdflib.RDF.type, ours[kind]))
        for key, value in values.items():
            if isinstance(value, float):
                value = Decimal(repr(value))  # of a double, Turtle's writer keeps seven digits
            node = rdflib.URIRef(value) if key in ("subject", "object") else rdflib.Literal(value)
            made.add((rdflib.URIRef(name), rdflib.RDFS.label if key == "label" else ours[key], node))

    add("#scene", "SceneGraph", {"height": graph.height, "width": graph.width})
    flat = graph.to_networkx()
    for index, obj in flat.nodes(data=True):
        add(f"#object-{index}", "Object", {"index": index, **obj})
    for subject, object_, relation in flat.edges(data=True):
        ends = {"subject": f"#object-{subject}", "object": f"#object-{object_}"}
        add(f"#relation-{relation['rank']}", "Relation", {**ends, **relation})
        predicate = ours[f"predicate/{quote(relation['predicate'], safe='')}"]  # the relation as one triple, to query
        made.add((rdflib.URIRef(ends["subject"]), predicate, rdflib.URIRef(ends["object"])))
    return made


def _json_of_rdf(path: Path, format_: str) -> str:
    rdflib = import_module("rdflib")
    ours, read = rdflib.Namespace(NAMESPACE), rdflib.Graph()
    read.parse(path, format=format_)

    def values(kind: str) -> list[dict]:
        found = []
        for node in read.subjects(rdflib.RDF.type, ours[kind]):
            entry = {str(key).removeprefix(NAMESPACE): value for key, value in read.predicate_objects(node)}
            entry["label"] = entry.pop(str(rdflib.RDFS.label), None)
            found.append({"node": node, **entry})
        return found

    (scene,), entries = values("SceneGraph"), sorted(values("Object"), key=lambda entry: entry["index"].value)
    position = {entry["node"]: i for i, entry in enumerate(entries)}

    def plain(value: Any) -> Any:
        found = position[value] if isinstance(value, rdflib.URIRef) else value.value
        return float(found) if isinstance(found, Decimal) else found

    objects = [{key: plain(entry[key]) for key in _OBJECT} for entry in entries]
    relations = [{key: plain(entry[key]) for key in _RELATION} for entry in values("Relation")]
    return _json_of((scene["height"].value, scene["width"].value), objects, relations)


# Columns of Neo4j's import: names with the types that it is to give them.
_OBJECT_COLUMNS = {
    "index": ":ID",
    "name": "name",
    "label": "label",
    "category_id": "category_id:int",
    "score": "score:double",
    "isthing": "isthing:boolean",
    "mask": "mask",
}
_RELATION_COLUMNS = {
    "subject": ":START_ID",
    "object": ":END_ID",
    "predicate": ":TYPE",
    "predicate_id": "predicate_id:int",
    "score": "score:double",
    "rank": "rank:int",
}


def _write_csv(graph: SceneGraph, path: Path) -> None:
    flat = graph.to_networkx()
    if path.name.endswith(".objects.csv"):
        columns = _OBJECT_COLUMNS
        rows = [{"index": index, **obj} for index, obj in flat.nodes(data=True)]
    else:
        columns = _RELATION_COLUMNS
        rows = [{"subject": s, "object": o, **relation} for s, o, relation in flat.edges(data=True)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns.values())
        writer.writerows([json.dumps(row[k]) if k == "isthing" else row[k] for k in columns] for row in rows)


def _json_of_csv(path: Path) -> str:
    stem = str(path).removesuffix(".objects.csv").removesuffix(".relations.csv")
    kinds: dict[str, Callable] = {"int": int, "double": float, "boolean": json.loads}

    def rows(suffix: str, columns: dict[str, str]) -> list[dict]:
        with open(f"{stem}{suffix}", newline="", encoding="utf-8") as file:
            read = csv.DictReader(file)
            if missing := set(columns.values()).difference(read.fieldnames or ()):
                raise ValueError(f"{stem}{suffix}: the column {min(missing)!r} is missing")
            return [{k: kinds.get(c.partition(":")[2], str)(row[c]) for k, c in columns.items()} for row in read]

    graph = networkx.MultiDiGraph()
    for row in rows(".objects.csv", _OBJECT_COLUMNS):
        graph.add_node(int(row.pop("index")), **row)
    for row in rows(".relations.csv", _RELATION_COLUMNS):
        graph.add_edge(int(row.pop("subject")), int(row.pop("object")), **row)
    return _json_of_networkx(graph)


_WRITERS: dict[str, Callable[[SceneGraph, Path], object]] = {
    "json": lambda graph, path: path.write_text(graph.to_json(), encoding="utf-8"),
    "graphml": lambda graph, path: networkx.write_graphml(graph.to_networkx(), path),
    "gexf": lambda graph, path: networkx.write_gexf(graph.to_networkx(), path),
    "dot": _write_dot,
    "turtle": lambda graph, path: _rdf(graph).serialize(path, format="turtle"),
    "json-ld": lambda graph, path: _rdf(graph).serialize(path, format="json-ld"),
    "csv": _write_csv,
}
_READERS: dict[str, Callable[[Path], str]] = {
    "json": lambda path: path.read_text(encoding="utf-8"),
    "graphml": lambda path: _json_of_networkx(networkx.read_graphml(path, node_type=int, force_multigraph=True)),
    "gexf": lambda path: _json_of_networkx(networkx.read_gexf(path, node_type=int)),
    "turtle": lambda path: _json_of_rdf(path, "turtle"),
    "json-ld": lambda path: _json_of_rdf(path, "json-ld"),
    "csv": _json_of_csv,
}
