"""docs/robustness.md says what the tests hold: its rows are those of the cases, and the tests it names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ..cli.bad_runs import CONFIGURATION, SURROUNDINGS
from .validation.bad_cases import FILES, IMAGES, MENDED, RECORDS, WARNINGS

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "robustness.md"
PLACES = {"{json}": "JSON", "{image}": "IMAGE", "{png}": "PNG", "{folder}": "FOLDER", "{{": "{", "}}": "}"}
TITLES = ["files", "records", "images", "mended", "warnings", "configuration", "surroundings"]


def table_rows() -> dict[str, list[str]]:
    """The tables of the cases, one row each: what, exact message, test."""
    groups = {
        "files": {key: (what, message, "test_file") for key, (what, _, message) in FILES.items()},
        "records": {key: (case.what, case.message, "test_error") for key, case in RECORDS.items()},
        "images": {key: (case.what, case.message, "test_error") for key, case in IMAGES.items()},
        "mended": {key: (case.what, case.message, "test_mended") for key, case in MENDED.items()},
        "warnings": {key: (case.what, case.message, "test_warning") for key, case in WARNINGS.items()},
        "configuration": {key: (case.what, case.message, "test_configuration") for key, case in CONFIGURATION.items()},
        "surroundings": {key: (case.what, case.message, "test_surroundings") for key, case in SURROUNDINGS.items()},
    }
    return {
        title: [f"| {what} | `{_shown(message)}` | `{test}[{key}]` |" for key, (what, message, test) in cases.items()]
        for title, cases in groups.items()
    }


def _shown(message: str) -> str:
    for place, name in PLACES.items():
        message = message.replace(place, name)
    return message


@pytest.mark.parametrize("title", TITLES)
def test_every_case_is_in_the_table(title):
    lines = DOC.read_text(encoding="utf-8").splitlines()
    missing = [row for row in table_rows()[title] if row not in lines]
    assert not missing


def test_named_tests_exist():
    text = DOC.read_text(encoding="utf-8")
    functions = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        functions[path.relative_to(ROOT / "tests").as_posix()] = names
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", text)
    assert len(named) >= 15
    for file, function in named:
        assert function in functions[file], (file, function)
    cases = {"test_file": FILES, "test_error": IMAGES | RECORDS, "test_mended": MENDED, "test_warning": WARNINGS}
    cases |= {"test_configuration": CONFIGURATION, "test_surroundings": SURROUNDINGS}
    rows = re.findall(r"`(test_\w+)\[(\w+)\]`", text)
    assert sorted(rows) == sorted((test, key) for test, known in cases.items() for key in known)
