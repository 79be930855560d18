"""Vocabulary files: what they mean and how mistakes in them are named."""

import json
from pathlib import Path

import pytest

from usg_psg.data import PSG_VOCABULARY
from usg_psg.vocabulary import Vocabulary

EXAMPLE = Path(__file__).resolve().parents[1] / "configs" / "vocabularies" / "example.yaml"
GOOD = {"thing_classes": ["cup", "person"], "stuff_classes": ["wall"], "predicate_classes": ["on", "holding"]}


def write(folder: Path, content: object, name: str = "words.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_example_is_read():
    file = Vocabulary.read(EXAMPLE)
    assert file.predicate_classes.index("on") == 4
    assert file.synonyms["cup"] == ("mug", "glass") and len(file.object_templates) == 2
    assert file.with_synonyms(["cup", "wall"]) == ("cup,mug,glass", "wall")


def test_fc_clip_s_prompts_come_with_psg_s_names():
    file = Vocabulary.read(EXAMPLE.with_name("psg_fc_clip.yaml"))
    assert file.names == PSG_VOCABULARY.names
    assert len(set(file.object_templates)) == 14 and not file.predicate_templates


def test_yaml_and_json_say_the_same(tmp_path):
    text = "thing_classes: [cup, person]\nstuff_classes: [wall]\npredicate_classes: [on, holding]\n"
    from_yaml = Vocabulary.read(write(tmp_path, text, "words.yaml"))
    assert from_yaml == Vocabulary.read(write(tmp_path, GOOD))
    assert from_yaml == Vocabulary(("cup", "person"), ("wall",), ("on", "holding"))


def test_words_that_yaml_takes_for_truth_values_stay_words(tmp_path):
    text = "thing_classes: [yes, No, off, y]\npredicate_classes:\n  - on\n"
    file = Vocabulary.read(write(tmp_path, text, "words.yaml"))
    assert file == Vocabulary(("yes", "No", "off", "y"), (), ("on",))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"thing_classes": ["cup", "Cup"]}, "thing_classes, stuff_classes: 'cup' occurs twice"),
        ({"stuff_classes": ["person"]}, "thing_classes, stuff_classes: 'person' occurs twice"),
        ({"predicate_classes": ["on", "on "]}, "predicate_classes: 'on' occurs twice"),
        ({"predicate_classes": []}, "predicate_classes: expected at least one name"),
        ({"thing_classes": [], "stuff_classes": []}, "thing_classes: expected a name"),
        ({"thing_classes": "cup"}, "thing_classes: expected a list, got str"),
        ({"thing_classes": ["cup", 3]}, r"thing_classes\[1\]: expected text, got 3"),
        ({"thing_classes": ["cup", ""]}, r"thing_classes\[1\]: expected text, got ''"),
        ({"thing_classes": ["cup, mug"]}, r"thing_classes\[0\]: 'cup, mug' has a comma"),
        ({"things": ["cup"]}, "things: unknown key; there are thing_classes"),
        ({"object_templates": []}, "object_templates: expected at least one prompt"),
        ({"object_templates": ["a photo"]}, r"object_templates\[0\]: expected a prompt with one {}"),
        ({"object_templates": ["a {} {x}"]}, r"object_templates\[0\]: expected a prompt with one {}"),
        ({"synonyms": ["mug"]}, "synonyms: expected a list of words for each name, got list"),
        ({"synonyms": {"mug": ["cup"]}}, "synonyms.mug: there is no such name"),
        ({"synonyms": {"cup": ["person"]}}, "synonyms.cup: 'person' occurs twice"),
        ({"synonyms": {"cup": "mug"}}, "synonyms.cup: expected a list, got str"),
    ],
)
def test_mistakes_are_named_with_file_and_field(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"words.json, {message}"):
        Vocabulary.read(write(tmp_path, GOOD | change))


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("words.json", '{"thing_classes": ["a"], "thing_classes": []}', "'thing_classes' occurs twice"),
        ("words.yaml", "thing_classes: [a]\nthing_classes: [b]\n", "'thing_classes' occurs twice"),
        ("words.yaml", "thing_classes: [a\n", "cannot be read"),
        ("words.yaml", "!!python/object/apply:os.getcwd []", "cannot be read"),
        ("words.yaml", "- a\n- b\n", "top level: expected keys"),
        ("words.yaml", "", "top level: expected keys"),
        ("words.json", "{", "cannot be read"),
        (
            "words.yaml",
            "a: &a [x]\nb: &b [" + "*a, " * 99 + "*a]\nthing_classes: [" + "*b, " * 99 + "*b]",
            "its aliases repeat more than 10,000 values",
        ),
        (
            "words.yaml",
            "thing_classes: [true]\npredicate_classes: [on]",
            r"thing_classes\[0\]: expected text, got True",
        ),
    ],
)
def test_unreadable_text_is_named(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=f"{name}.*{message}") as caught:
        Vocabulary.read(write(tmp_path, text, name))
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.yaml"):
        Vocabulary.read(tmp_path / "none.yaml")


def test_names_of_a_data_set_are_looked_up(tmp_path):
    file = Vocabulary.read(write(tmp_path, GOOD))
    file.check_covers("some_set", Vocabulary(("person",), ("wall",), ("holding",)))
    assert file.number_beyond(Vocabulary(("person",), ("wall",), ("holding",))) == 2
    with pytest.raises(ValueError, match="lacks names of the data set 'psg': thing_classes bicycle, .*; stuff_classes"):
        file.check_covers("psg", PSG_VOCABULARY)
    with pytest.raises(ValueError, match="'other': thing_classes wall"):
        file.check_covers("other", Vocabulary(("wall",), (), ("on",)))
