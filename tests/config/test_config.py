"""Configurations load, round-trip and refuse what they should."""

import sys
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode

from usg_psg.config import build_cfg, get_config_file

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = sorted(str(f.relative_to(CONFIGS)) for f in CONFIGS.rglob("*.yaml") if f.parent.name != "vocabularies")


@pytest.mark.parametrize("recipe", RECIPES)
def test_round_trip(recipe, tmp_path):
    cfg = build_cfg(get_config_file(recipe))
    path = tmp_path / "dumped.yaml"
    path.write_text(cfg.dump())
    again = build_cfg(str(path))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert isinstance(again, CfgNode)


def test_overrides_come_last():
    cfg = build_cfg(
        "psg/usg_par_convnext_large.yaml", ["SOLVER.BASE_LR", "1e-4", "MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS", "7"]
    )
    assert cfg.SOLVER.BASE_LR == 1e-4 and cfg.MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS == 7


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(FileNotFoundError, match="usg_par_convnext_large.yaml"):
        build_cfg("psg/no_such.yaml")


def test_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(ValueError, match="RPC.NUM_PAIR'; did you mean MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS"):
        build_cfg("", ["MODEL.USG.RELATION_HEAD.RPC.NUM_PAIR", "1"])
    with pytest.raises(ValueError, match="KEY VALUE"):
        build_cfg("", ["SOLVER.MAX_ITER"])


def test_modules_of_imports_are_imported(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_parts.py").write_text("REGISTERED = True\n")
    build_cfg("", ["IMPORTS", "['my_parts']"])
    assert sys.modules.pop("my_parts").REGISTERED
    with pytest.raises(ValueError, match="IMPORTS: there is no module 'no_such_parts' in .* or on PYTHONPATH"):
        build_cfg("", ["IMPORTS", "['no_such_parts']"])
    (tmp_path / "my_parts.py").write_text("import no_such_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        build_cfg("", ["IMPORTS", "['my_parts']"])


def test_a_recipe_anywhere_builds_on_a_shipped_one(tmp_path):
    (tmp_path / "mine.yaml").write_text("_BASE_: quickstart/usg_par_quickstart.yaml\nSOLVER: {MAX_ITER: 7}\n")
    cfg = build_cfg(str(tmp_path / "mine.yaml"))
    assert (
        cfg.SOLVER.MAX_ITER == 7
        and cfg.DATASETS.TRAIN == build_cfg("quickstart/usg_par_quickstart.yaml").DATASETS.TRAIN
    )
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "usg_par_quickstart.yaml").write_text("SOLVER: {BASE_LR: 0.5}\n")
    assert build_cfg(str(tmp_path / "mine.yaml")).SOLVER.BASE_LR == 0.5  # the file's own folder comes first


def test_imports_of_a_file_from_elsewhere_need_consent(tmp_path, monkeypatch):
    (tmp_path / "downloads").mkdir()
    recipe, base = tmp_path / "downloads" / "recipe.yaml", tmp_path / "downloads" / "base.yaml"
    base.write_text("IMPORTS: [json]\n")
    recipe.write_text("_BASE_: base.yaml\n")
    with pytest.raises(ValueError, match="base.yaml: its IMPORTS would run code"):
        build_cfg(str(recipe))
    assert build_cfg(str(recipe), trust_imports=True).IMPORTS == ["json"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "link.yaml").symlink_to(base)
    with pytest.raises(ValueError, match="link.yaml: its IMPORTS would run code"):
        build_cfg("link.yaml")
    monkeypatch.chdir(tmp_path)
    assert build_cfg("downloads/recipe.yaml").IMPORTS == ["json"]


def test_aliases_that_repeat_without_end_are_refused(tmp_path):
    """Each line ten times the one before: a billion values in a few hundred bytes."""
    path = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    for text, message in (
        ("\n".join(lines), "its aliases repeat more than 10,000 values"),
        ("a0: &a0 {x: 1}\n" + "\n".join(lines[1:]).replace("[", "{<<: [").replace("]", "]}"), "aliases repeat"),
        ("a: &a [*a]", "an alias stands for something that contains it"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"bomb.yaml: cannot be read: .*{message}"):
            build_cfg(str(path), [])
    path.write_text("SOLVER: &s {MAX_ITER: 4}\nINPUT: {MIN_SIZE_TRAIN: &x [64, 96], MAX_SIZE_TRAIN: 128}\n")
    assert build_cfg(str(path), []).SOLVER.MAX_ITER == 4


def test_trees_of_bases(tmp_path):
    """Each of forty files names the one below twice: 2^40 paths lead to the last, which is read once."""
    for i in range(40):
        text = f"_BASE_: [{i + 1}.yaml, {i + 1}.yaml]\n" if i < 39 else "SOLVER: {MAX_ITER: 7, BASE_LR: 0.5}\n"
        (tmp_path / f"{i}.yaml").write_text(text)
    (tmp_path / "38.yaml").write_text("_BASE_: 39.yaml\nSOLVER: {BASE_LR: 0.25}\n")
    cfg = build_cfg(str(tmp_path / "0.yaml"), [])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (7, 0.25)
    # A later base overrides an earlier one, also where both name the same file.
    (tmp_path / "a.yaml").write_text("_BASE_: c.yaml\nSOLVER: {MAX_ITER: 1, BASE_LR: 0.125}\n")
    (tmp_path / "b.yaml").write_text("_BASE_: c.yaml\n")
    (tmp_path / "c.yaml").write_text("SOLVER: {MAX_ITER: 3}\n")
    (tmp_path / "d.yaml").write_text("_BASE_: [a.yaml, b.yaml]\n")
    cfg = build_cfg(str(tmp_path / "d.yaml"), [])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (3, 0.125)
    for i in range(2000):
        (tmp_path / f"n{i}.yaml").write_text(f"_BASE_: n{i + 1}.yaml\n")
    with pytest.raises(
        ValueError, match="n0.yaml: its _BASE_ leads through more than 50 files, the last one .*n51.yaml"
    ):
        build_cfg(str(tmp_path / "n0.yaml"), [])
