"""docs/configuration.md says of every key what it means."""

import re
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg

from usg_psg.config import build_cfg
from usg_psg.config import reference as list_config
from usg_psg.config.defaults import KEYS as TABLE
from usg_psg.config.files import leaves
from usg_psg.utils.generated_table import split_at_marks

ROOT = Path(__file__).resolve().parents[2]
KEYS = dict(leaves(build_cfg()))


def leaf_keys(node: dict, prefix: str = "") -> set[str]:
    found = set()
    for name, value in node.items():
        found |= leaf_keys(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return found


def documented() -> set[str]:
    text = list_config.DOCUMENT.read_text(encoding="utf-8")
    lines = re.findall(r"^- (`[A-Z][A-Z0-9_.]+`(?:, `[A-Z][A-Z0-9_.]+`)*) `", text, flags=re.MULTILINE)
    return {key.strip("`") for line in lines for key in line.split(", ")} & KEYS.keys()


def test_document_is_current():
    """Otherwise run `python -m usg_psg.config.reference --write`."""
    text = list_config.DOCUMENT.read_text(encoding="utf-8")
    assert split_at_marks(text, list_config.MARKS)[1] == list_config.table()


def test_every_key_of_this_project_is_documented():
    own = KEYS.keys() - dict(leaves(get_cfg())).keys()
    assert len(own) > 70
    assert not own - documented()


def test_every_key_that_recipes_set_is_documented():
    recipes = [path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "vocabularies"]
    assert len(recipes) >= 5
    for path in recipes:
        keys = leaf_keys(yaml.safe_load(path.read_text())) - {"_BASE_"}
        assert not keys - documented(), path.name


def test_every_key_that_the_code_reads_is_documented():
    read = set()
    for path in [*(ROOT / "usg_psg").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        if "compat" not in path.parts:
            read |= set(re.findall(r"\bcfg\.([A-Z][A-Z0-9_.]*[A-Z0-9])", path.read_text(encoding="utf-8")))
    assert len(read & KEYS.keys()) > 50
    assert not (read & KEYS.keys()) - documented()


def test_every_key_has_a_meaning_of_its_own():
    assert all(re.sub(r"SPEC [\d, and]+", "", key.meaning).strip(" ;:,.") for key in TABLE.values())


def test_writing_replaces_what_is_between_the_marks(tmp_path, monkeypatch):
    document = tmp_path / "configuration.md"
    document.write_text("before\n<!-- keys: start -->\nwhat was there\n<!-- keys: end -->\nafter\n")
    monkeypatch.setattr(list_config, "DOCUMENT", document)
    list_config.main(["--write"])
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "- `MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS` `200`: " in text and "what was there" not in text
    document.write_text("before\n<!-- keys: start -->\nwhat was there\n")
    with pytest.raises(ValueError, match="no marks.*keys: end"):
        list_config.main(["--write"])
