"""Scene graphs in the formats of other programs: what is written is read again; the JSON Schema says what JSON is."""

import csv
import json
import sys
from dataclasses import fields

import jsonschema
import networkx
import numpy as np
import pydot
import pytest
import rdflib

from usg_psg.graph_formats import NAMESPACE, SUFFIXES, check_formats, json_schema, read_graph, save_graph
from usg_psg.scene_graph import SceneGraph, SceneObject, SceneRelation

from .visualization.scenes import blobs, random_graph, random_scene, stripes

READ = [suffix for name, suffixes in SUFFIXES.items() for suffix in suffixes if name != "dot"]


def odd_names() -> SceneGraph:
    """Names with what formats escape, several predicates of a pair, a score that needs all its digits."""
    graph = stripes()
    for obj, name in zip(graph.objects, ('"a: b"', "<c> & 'd'", "é, ü; 雪", "back\\slash {e}"), strict=True):
        obj.name = obj.label = name
    graph.relations += [SceneRelation(0, 1, 'hangs / "on" #2: é', 3, 0.1 + 0.2), SceneRelation(0, 1, "on", 4, 1e-7)]
    return graph


GRAPHS = {
    "scene": lambda: random_scene()[1],
    "odd names": odd_names,
    "many relations": lambda: random_graph(np.random.default_rng(0), 12, 80),
    "no relation": lambda: blobs(np.random.default_rng(0), 20, 30, 5),
    "nothing": lambda: SceneGraph(20, 30, [], []),
}
each_graph = pytest.mark.parametrize("graph", [make() for make in GRAPHS.values()], ids=list(GRAPHS))


def save(graph, folder, suffix):
    """Write it, with the other half of a CSV; returns the path."""
    for path in {folder / f"a.b{suffix}", *(folder / f"a.b{s}" for s in SUFFIXES["csv"] if suffix.endswith(".csv"))}:
        save_graph(graph, path)
    return folder / f"a.b{suffix}"


@each_graph
@pytest.mark.parametrize("suffix", READ)
def test_comes_back_as_it_was(graph, suffix, tmp_path):
    path = save(graph, tmp_path, suffix)
    if not graph.objects and suffix in (".gexf", ".objects.csv", ".relations.csv"):
        with pytest.raises(ValueError, match="no object"):  # they hold no size but that of masks
            read_graph(path)
    else:
        assert read_graph(path) == graph


def test_graphml_for_others(tmp_path):
    """Every attribute has a type of GraphML's."""
    made = networkx.read_graphml(save(odd_names(), tmp_path, ".graphml"))
    assert {type(value) for _, node in made.nodes(data=True) for value in node.values()} == {str, int, float, bool}
    assert made.graph["height"] == 60


def test_dot_draws_names(tmp_path):
    (drawn,) = pydot.graph_from_dot_file(save(odd_names(), tmp_path, ".dot"))
    labels = [json.loads(node.get("label")) for node in drawn.get_nodes() if node.get("label")]
    assert labels == [obj.label for obj in odd_names().objects]
    assert len(drawn.get_edges()) == len(odd_names().relations)
    with pytest.raises(ValueError, match="dot is written, not read"):
        read_graph(tmp_path / "a.b.dot")


@pytest.mark.parametrize("suffix", [".ttl", ".jsonld"])
def test_rdf_can_be_queried(suffix, tmp_path):
    read = rdflib.Graph().parse(save(stripes(), tmp_path, suffix))
    triples = f"?s <{NAMESPACE}predicate/standing%20on> ?o . ?s rdfs:label ?subject . ?o rdfs:label ?object"
    query = f"SELECT ?subject ?object {{ {triples} }}"
    found = {tuple(map(str, row)) for row in read.query(query)}
    labels = [obj.label for obj in stripes().objects]
    assert found == {(labels[i], labels[(i + 1) % 4]) for i in range(4)}


def test_csv_for_neo4j(tmp_path):
    save(odd_names(), tmp_path, ".objects.csv")
    with open(tmp_path / "a.b.objects.csv", newline="", encoding="utf-8") as file:
        header, first, *_ = csv.reader(file)
    assert header[:3] == [":ID", "name", "label"] and first[0] == "0" and "false" in first
    with open(tmp_path / "a.b.relations.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {":START_ID", ":END_ID", ":TYPE"} <= rows[0].keys() and len(rows) == len(odd_names().relations)


@each_graph
def test_schema_takes_what_is_written(graph):
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(json.loads(graph.to_json()), json_schema())


def test_schema_has_every_field():
    kinds = json_schema()["$defs"]
    for name, kind in (("object", SceneObject), ("relation", SceneRelation)):
        assert set(kinds[name]["properties"]) == {each.name for each in fields(kind)}
    assert json_schema()["properties"].keys() == json.loads(stripes().to_json()).keys()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("version",), 2),
        (("height",), "60"),
        (("objects", 1, "name"), 5),
        (("objects", 1, "mask", "size"), [60]),
        (("objects", 1, "mask", "counts"), "~"),
        (("objects", 1, "colour"), "red"),
        (("relations", 0, "subject"), 0.5),
        (("relations", 0, "subject"), -1),
        (("relations", 0, "score"), None),
    ],
)
def test_schema_refuses_what_reading_refuses(where, value):
    data = json.loads(stripes().to_json())
    entry = data
    for key in where[:-1]:
        entry = entry[key]
    entry[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json_schema())
    with pytest.raises(ValueError):
        SceneGraph.from_json(json.dumps(data))


def test_bad_files_and_names(tmp_path):
    with pytest.raises(ValueError, match=r"a\.xlsx: expected a file that ends in \.json, \.graphml"):
        save_graph(stripes(), tmp_path / "a.xlsx")
    with pytest.raises(ValueError, match=r"expected one of json, graphml.*, got 'xlsx'"):
        check_formats(["xlsx"])
    with pytest.raises(FileNotFoundError):
        read_graph(tmp_path / "absent.graphml")
    for suffix in READ:
        path = save(stripes(), tmp_path, suffix)
        path.write_text("{ rubbish")
        with pytest.raises(ValueError, match=rf"a\.b{suffix}: not a scene graph in "):
            read_graph(path)


def test_missing_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rdflib", None)
    with pytest.raises(ValueError, match=r"turtle needs rdflib: pip install 'usg_psg\[graphs\]'"):
        save_graph(stripes(), tmp_path / "a.ttl")
    check_formats(["graphml", "gexf", "csv", "json"])
