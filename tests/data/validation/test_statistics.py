"""Counts of a data set, against numbers counted by hand."""

from __future__ import annotations

import json

from usg_psg.data.psg_json import write_index
from usg_psg.data.validation.statistics import dataset_statistics, format_statistics, predicate_figure, zipf_exponent

from ..psg_files import content, record, write_json


def test_counts(tmp_path):
    entries = [record(str(i)) for i in range(4)]
    entries[1]["relations"] = [[2, 2, 0]]  # of a segment to itself: none
    entries[0]["relations"].append([0, 3, 0])  # a second time: counts once
    entries[2]["height"] = 0  # invalid
    entries.append(record("0"))  # there already, so invalid
    path = write_json(tmp_path, content(entries, ["3"]))
    statistics = dataset_statistics(path)
    train, test = statistics["splits"]["trainval"], statistics["splits"]["test"]
    assert (train["images"], train["invalid_images"], train["images_without_relations"]) == (2, 2, 1)
    assert (train["objects"], train["things"], train["stuff"], train["crowd"]) == (8, 6, 2, 2)
    # Rows [0, 3, 0], [1, 0, 1], [2, 3, 2], [0, 2, 3].
    assert (train["relations"], train["related_pairs"], train["relations_per_image"]) == (4, 4, 2.0)
    assert train["categories"] == {"person": 4, "cup": 2, "wall": 2}
    assert train["predicates"] == {"on": 1, "beside": 1, "over": 1, "holding": 1}
    assert train["category_pairs"] == {"person | wall": 1, "person | person": 1, "cup | wall": 1, "person | cup": 1}
    assert (train["thing_thing"], train["thing_stuff"], train["stuff_stuff"]) == (50.0, 50.0, 0.0)
    assert train["objects_p10_p50_p90"] == "4 / 4 / 4" and train["predicate_head"] == 100.0
    assert next(iter(train["triplets"].items())) == ("person | on | wall", 1)
    assert test["images"] == 1 and test["predicates"] == train["predicates"]
    rows = {row[0]: row[1:] for row in format_statistics(statistics)}
    assert rows["relations"] == [4, 4] and rows["kinds of triplets"] == [4, 4]
    assert format_statistics(statistics)[-4:] == [["on", 1, 1], ["beside", 1, 1], ["over", 1, 1], ["holding", 1, 1]]
    axes = predicate_figure(statistics).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["on", "beside", "over", "holding"]
    assert [bar.get_height() for bar in axes.containers[0]] == [1, 1, 1, 1]
    write_index(path)
    assert json.dumps(dataset_statistics(path)) == json.dumps(statistics)


def test_empty_split(tmp_path):
    statistics = dataset_statistics(write_json(tmp_path, content([record("1")], [])))
    assert statistics["splits"]["test"]["images"] == 0
    assert statistics["splits"]["test"]["objects_per_image"] == 0
    assert predicate_figure(statistics).axes


def test_zipf_exponent():
    assert abs(zipf_exponent([round(1e6 / rank**1.5) for rank in range(1, 40)] + [0]) - 1.5) < 1e-3
    assert zipf_exponent([]) == zipf_exponent([5, 0]) == 0


def test_names_with_signs_of_formulas(tmp_path):
    """Dollars and braces are text in figures."""
    path = write_json(tmp_path, {**content([record("1")], []), "predicate_classes": ["$x^{", r"$\frac$", "{}", "a_b"]})
    figure = predicate_figure(dataset_statistics(path))
    figure.savefig(tmp_path / "a.png")
    assert "$x^{" in [text.get_text() for text in figure.axes[0].get_xticklabels()]
