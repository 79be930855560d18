"""README and docs tell the truth: links, files, options and keys exist, code runs as it stands there."""

import argparse
import ast
import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import usg_psg_cli
from usg_psg.config import build_cfg
from usg_psg.config.files import leaves
from usg_psg.server import PATH

from .documents import DOCUMENTS, ROOT, Block, anchors, blocks, links, split_environment
from .programs import python_path

PROGRAMS = ("python ", "pip ", "make ", "tools/")  # what a block of commands without a language begins with
by_name = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def blocks_of(languages: set[str]) -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks(document) if block.language in languages]


SHELL_BLOCKS = [block for block in blocks_of({"sh", "bash", ""}) if block.language or block.text.startswith(PROGRAMS)]
COMMANDS = [(block, command) for block in SHELL_BLOCKS for command in block.commands()]
IDS = [f"{block.document.name}: {command[:60]}" for block, command in COMMANDS]


@by_name
def test_links_lead_somewhere(document):
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.is_relative_to(ROOT) and target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@by_name
def test_files_that_the_text_names_exist(document):
    pattern = r"`((?:tools|configs|docs|tests|usg_psg|mask2former_ops)/[\w/.-]*\w)`"
    missing = [name for name in re.findall(pattern, prose(document)) if not (ROOT / name).exists()]
    assert not missing


def prose(document: Path) -> str:
    """A document without its blocks."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


@by_name
def test_options_that_the_text_names_exist(document):
    sources = [path for folder in ("tools", "usg_psg", "usg_psg_cli") for path in (ROOT / folder).rglob("*.py")]
    known = {name for path in sources for name in re.findall(r'"(--[a-z][a-z-]*)"', path.read_text(encoding="utf-8"))}
    named = set(re.findall(r"`[^`]*?(--[a-z][a-z-]*)", prose(document)))
    # Of argparse, pip, pytest and sbatch.
    others = {"--help", "--no-build-isolation", "--no-deps", "--noconftest", "--partition", "--account", "--time"}
    assert not named - known - others


@by_name
def test_keys_that_the_text_names_exist(document):
    keys = {key for key, _ in leaves(build_cfg())}
    parts = {".".join(key.split(".")[i:j]) for key in keys for i in range(5) for j in range(i + 1, 8)}
    assert not set(re.findall(r"`([A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)+)", prose(document))) - parts


def test_the_figure_names_files_that_exist():
    (figure,) = (block for block in blocks(ROOT / "docs" / "architecture.md") if block.language == "mermaid")
    named = re.findall(r"[\w/]+(?:\.py|/(?=\"))", figure.text)
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / "usg_psg" / name).exists()]


def test_every_recipe_is_in_the_model_zoo():
    recipes = [path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "vocabularies"]
    zoo = links(ROOT / "docs" / "model_zoo.md")
    for path in recipes:
        assert path.name.startswith("Base") or f"../{path.relative_to(ROOT).as_posix()}" in zoo, path.name


def test_there_is_something_to_test():
    assert len(COMMANDS) > 30
    assert sum(block.runs for block in blocks_of({"sh", "python"})) >= 4
    assert {block.language for document in DOCUMENTS for block in blocks(document)} <= {
        "", "sh", "bash", "text", "python", "yaml", "mermaid", "bibtex"
    }  # fmt: skip


class Parsed(BaseException):
    """Carries what a program's parser made of a command line."""

    def __init__(self, namespace: argparse.Namespace):
        super().__init__()
        self.namespace = namespace


def parse(program: Path, words: list[str], monkeypatch) -> argparse.Namespace:
    """What a program of tools/ understands of its arguments, without doing anything.

    Raises:
        SystemExit: if its parser refuses them.
    """
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        raise Parsed(original(self, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [str(program), *words])
    monkeypatch.syspath_prepend(program.parent)  # as Python does for a script
    try:
        runpy.run_path(str(program), run_name="__main__")
    except Parsed as parsed:
        return parsed.namespace
    raise AssertionError(f"{program} parses no arguments")


def check_program(program: str, words: list[str], monkeypatch) -> None:
    """The program exists, takes these options, and its recipe these keys; no option stands among the overrides."""
    assert (ROOT / program).is_file(), f"there is no {program}"
    arguments = parse(ROOT / program, words, monkeypatch)
    swallowed = [word for word in getattr(arguments, "opts", None) or [] if word.startswith("--")]
    assert not swallowed, f"options after the overrides are taken for keys: {swallowed}"
    recipes = getattr(arguments, "config_file", "") or ""
    for recipe in recipes if isinstance(recipes, list) else [recipes]:
        if recipe.startswith("configs/"):
            build_cfg(str(ROOT / recipe), [*getattr(arguments, "opts", [])])


def check_pip(words: list[str]) -> None:
    """Folders to install are packages of this repository, and their extras exist."""
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    for word in words:
        path, _, extra = word.partition("[")
        if path.startswith("."):
            assert (ROOT / path / "setup.py").is_file(), word
            assert not extra or extra.rstrip("]") in extras, word


@pytest.mark.parametrize("block, command", COMMANDS, ids=IDS)
def test_commands_are_understood(block, command, monkeypatch):
    environment, words = split_environment(command)
    assert all(re.fullmatch(r"[A-Z0-9_]+", name) for name in environment)
    match words:
        case ["python" | "python3", "-m", "pytest" | "venv" | "pip" | "http.server", *rest]:
            assert all((ROOT / word).exists() for word in rest if word.startswith("tests"))
        case ["python", "-m", module, *_]:
            importlib.import_module(module)
        case ["python", "..."]:
            pass
        case ["python", program, *rest] if program.startswith("tools/"):
            check_program(program, rest, monkeypatch)
        case ["python", program]:
            assert program in {each.file for each in blocks(block.document)}, f"{program} is not in the document"
        case [program, *rest] if program.endswith("_train.sh"):
            assert os.access(ROOT / program, os.X_OK)
            check_program("tools/train_net.py", [] if rest == ["..."] else rest, monkeypatch)
        case ["tools/measure_gpu.sh" as program, _, *parts]:
            assert os.access(ROOT / program, os.X_OK)
            assert all(f"\n{part}() {{" in (ROOT / program).read_text() for part in parts), command
        case ["sbatch", *rest]:
            script = next(word for word in rest if word.endswith(".sh"))
            assert (ROOT / script).is_file()
            check_program("tools/train_net.py", rest[rest.index(script) + 1 :], monkeypatch)
        case ["usg-psg", "benchmark" | "data" as group, name, *rest]:
            usg_psg_cli.parse(f"{group} {name}", rest)
        case ["usg-psg", name, *rest]:
            usg_psg_cli.parse(name, rest)
        case ["docker", "run", *rest]:
            usg_psg_cli.parse("serve", rest[rest.index("usg-psg") + 1 :])
        case ["docker", "build", *_]:
            assert (ROOT / "Dockerfile").is_file()
        case ["curl", *_, url]:
            assert re.sub(r"\?.*", "", url).endswith(f":8000{PATH}")
        case ["make", *rest]:
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
            assert all(word in targets for word in rest if "=" not in word), command
        case ["pip", "install", *rest]:
            check_pip(rest)
        case ["export" | "cd" | "git" | "pre-commit" | "source" | "chromium", *_] | []:
            pass
        case _:
            raise AssertionError(f"nothing is known of this command: {command}")


@pytest.mark.parametrize("block", blocks_of({"python"}), ids=lambda b: f"{b.document.name}: {b.text[:40]!r}")
def test_code_imports_what_exists(block):
    """Blocks that are too long to run, or go on from what a reader has, at least name what is there."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in ("usg_psg", "mask2former_ops"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder that looks like a repository in which the quickstart has run, with data where the documents have it."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("configs", "tools", "docs", "usg_psg", "mask2former_ops"):
        (folder / name).symlink_to(ROOT / name)
    quickstart = folder / "output" / "quickstart"
    command = [sys.executable, "tools/quickstart.py", "--iterations", "2", "--num-train", "8", "--num-val", "4"]
    subprocess.run([*command, "--output", str(quickstart)], cwd=ROOT, check=True, capture_output=True)
    shapes = quickstart / "datasets" / "psg_shapes"
    (folder / "datasets").mkdir()
    for name in ("coco", "psg"):
        (folder / "datasets" / name).symlink_to(shapes / name)
    pictures = sorted((shapes / "coco").rglob("*.jpg"))
    assert len(pictures) >= 12
    (folder / "my_folder").mkdir()
    (folder / "my_image.jpg").write_bytes(pictures[0].read_bytes())
    (folder / "my_folder" / "another.jpg").write_bytes(pictures[1].read_bytes())
    return folder


def run(text: str, folder: Path) -> str:
    """Run shell lines as a reader would, all in one shell; returns what they print."""
    python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\n'
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
    done = subprocess.run(
        ["bash", "-e", "-c", python + text], cwd=folder, env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


RUNNING = [block for block in blocks_of({"sh", "python"}) if block.runs]


@pytest.mark.parametrize("block", RUNNING, ids=lambda b: f"{b.document.name}: {b.text[:40]!r}")
def test_code_runs_as_it_stands(block, workplace):
    if block.language == "python":
        (workplace / "block.py").write_text(block.text)
        run("export DETECTRON2_DATASETS=output/quickstart/datasets; python block.py", workplace)
    else:
        run(block.text, workplace)


EXTENDING = blocks(ROOT / "docs" / "extending.md")


@pytest.mark.parametrize("example", ["cups.yaml", "resnet.yaml", "head.yaml"])
def test_examples_of_extending(example, workplace, tmp_path):
    """Each example by itself, its files as the document has them: training, evaluation and what else it shows."""
    last = next(n for n, block in enumerate(EXTENDING) if block.file == example)
    for name in ("configs", "tools", "usg_psg", "mask2former_ops"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "quickstart").symlink_to(workplace / "output" / "quickstart")
    for block in EXTENDING[: last + 1]:
        if block.file:
            (tmp_path / block.file).write_text(block.text + "\n")
    run(EXTENDING[last + 1].text, tmp_path)
    folder = tmp_path / "output" / Path(example).stem
    assert (folder / "model_final.pth").is_file()
    assert list((folder / "inference").glob("sgdet_*.json"))
