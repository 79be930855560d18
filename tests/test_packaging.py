"""What is installed works outside the repository, and nothing of the source tree is forgotten."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("usg_psg", "usg_psg_cli", "mask2former_ops", "configs")
REST = ("docs", "tests", "tools")
# Made by running, building or testing; `git` ignores them too.
MADE = {"__pycache__", "build"}
MADE_SUFFIXES = {".pyc", ".so", ".egg-info"}


def files_of(*folders: str) -> set[str]:
    """Source files of these folders of the repository, relative to it."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    relative = (path.relative_to(ROOT) for path in found)
    return {
        path.as_posix()
        for path in relative
        if not MADE & set(path.parts) and not MADE_SUFFIXES & {Path(part).suffix for part in path.parts}
    }


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """A source distribution, built from a copy of the source tree."""
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    for name in files_of(*PACKAGES, *REST):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source / path.name)
    build = "import setuptools.build_meta as backend, sys; backend.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, check=True, capture_output=True)
    return next(folder.glob("usg_psg-*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist) -> Path:
    """The wheel that pip builds from the source distribution alone."""
    arguments = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(sdist.parent), str(sdist)]
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(sdist.parent.glob("usg_psg-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the installed wheel, without its dependencies, which the tests have."""
    target = tmp_path_factory.mktemp("site")
    arguments = ["--no-deps", "--no-index", "--no-compile", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "install", *arguments], check=True, capture_output=True)
    return target


def run_outside(installed: Path, folder: Path, program: str) -> str:
    """Run a program in an empty folder with the installed package; returns what it prints."""
    env = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_clone_called_as_the_package_does_not_hide_an_editable_installation(sdist):
    source = sdist.parent / "source"
    build = "import setuptools.build_meta as backend, sys; backend.build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(sdist.parent)], cwd=source, check=True, capture_output=True)
    (wheel,) = sdist.parent.glob("usg_psg-*.editable-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = (name for name in archive.namelist() if name.startswith("__editable__"))
        assert archive.read(entry).decode().strip() == str(source)
    wheel.unlink()


def test_the_wheel_has_every_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        content = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"usg_psg/{name}" if name.startswith("configs/") else name for name in files_of(*PACKAGES)}
    assert content == expected
    for name in ("usg_psg/visualization/assets/page.html", "mask2former_ops/csrc/cuda/forward.cu", "usg_psg/py.typed"):
        assert name in content


def test_the_source_distribution_has_every_file_of_the_repository(sdist):
    with tarfile.open(sdist) as archive:
        content = {name.partition("/")[2] for name in archive.getnames()}
    top = {path.name for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")}
    assert not (files_of(*PACKAGES, *REST) | top) - content


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    for line in ("Requires-Python: >=3.10", "Requires-Dist: torch>=2.4", "License-Expression: Apache-2.0"):
        assert line in text
    for extra in ("app", "test", "dev", "docs"):
        assert f"Provides-Extra: {extra}" in text
    assert " @ " not in text  # an index of packages takes no dependency by its address
    from usg_psg import __version__

    assert f"\nVersion: {__version__}\n" in text


def test_the_console_command_works_outside_the_repository(installed, tmp_path):
    program = """
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name="usg-psg")
words = ["shapes", "--output", "scenes", "--num-train", "2", "--num-val", "1", "--size", "64"]
raise SystemExit(command.load()(words))
"""
    assert "3 scenes: " in run_outside(installed, tmp_path, program)
    assert (tmp_path / "scenes" / "psg" / "psg.json").is_file()


def test_recipes_assets_and_sources_are_found_outside_the_repository(installed, tmp_path):
    program = """
import usg_psg, mask2former_ops
from pathlib import Path
from mask2former_ops.compilation import sources
from usg_psg.modeling.openclip import load_openclip
print(usg_psg.__file__)
print(mask2former_ops.__file__)
print(usg_psg.get_config_file("psg/usg_par_convnext_large.yaml"))
print(usg_psg.build_cfg("psg/usg_par_released.yaml").MODEL.USG.RELATION_HEAD.RPC.NUM_LAYERS)
print(type(load_openclip("usg_convnext_zepto")).__name__)
print(all(path.is_file() for path in sources(True)))
"""
    package, ops, recipe, layers, model, sources = run_outside(installed, tmp_path, program).splitlines()
    assert Path(package).is_relative_to(installed) and Path(ops).is_relative_to(installed)
    assert Path(recipe).is_relative_to(installed)
    assert (layers, model, sources) == ("4", "CLIP", "True")


def test_a_page_and_a_forward_pass_outside_the_repository(installed, tmp_path):
    program = """
import numpy as np
from usg_psg import build_cfg
from usg_psg import SceneGraphPredictor
from usg_psg.visualization import PageItem, PageWriter
cfg = build_cfg("quickstart/usg_par_quickstart.yaml", ["DATASETS.TEST", "('psg_test',)"])
image = np.zeros((64, 96, 3), np.uint8)
graph = SceneGraphPredictor(cfg, allow_random=True)(image)
with PageWriter("index.html", "Outside", 10) as page:
    page.add(PageItem("black", image, graph))
print(graph.height, graph.width)
"""
    assert run_outside(installed, tmp_path, program).split() == ["64", "96"]
    assert "<html" in (tmp_path / "index.html").read_text(encoding="utf-8")
