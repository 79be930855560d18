"""The files around the code agree with it and with one another: workflows, Makefile, site, versions, lock."""

import os
import re
import subprocess
import sys
from itertools import chain

import pytest
import yaml
from packaging.requirements import Requirement

from usg_psg import __version__, graph_formats

from .documents import ROOT, blocks
from .visualization.scenes import random_scene

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
HELP = dict(re.findall(r"^([\w-]+):.*## (.+)$", MAKEFILE, flags=re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))  # a source distribution has none
by_name = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)


def jobs(workflow):
    return yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]


@by_name
def test_workflows_call_targets_of_the_makefile(workflow):
    steps = list(chain.from_iterable(job["steps"] for job in jobs(workflow).values()))
    lines = [step["run"] for step in steps if "run" in step]
    targets = [word for line in lines for word in re.findall(r"^make ([\w-]+)", line)]
    assert targets and not set(targets) - set(HELP)
    assert all(line.startswith(("make ", "sudo apt-get ")) for line in lines)


@by_name
def test_workflows_pin_actions_and_may_only_read(workflow):
    text, content = workflow.read_text(encoding="utf-8"), yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert content["permissions"] == {"contents": "read"} and "cancel-in-progress" in content["concurrency"]
    assert text.count("uses: ") == len(re.findall(r"uses: [\w/-]+@[0-9a-f]{40} # v[\d.]+$", text, flags=re.MULTILINE))
    assert all("timeout-minutes" in job for job in content["jobs"].values())


@pytest.mark.skipif(not WORKFLOWS, reason="a source distribution has no workflows")
def test_the_tests_run_on_every_version_that_the_package_promises():
    matrix = jobs(ROOT / ".github" / "workflows" / "tests.yml")["test"]["strategy"]["matrix"]
    assert matrix["python"] == re.findall(r"Python :: (3\.\d+)", PYPROJECT)
    lowest = re.search(r'"torch>=([\d.]+)"', PYPROJECT)[1]
    assert {row["torch"] for row in matrix["include"]} == {"latest", f"{lowest}.*"}


def test_help_lists_every_target():
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert set(phony.split()) == set(HELP)


def test_the_version_has_one_source():
    assert 'version = {attr = "usg_psg.__version__"}' in PYPROJECT
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)[1] == __version__


def test_locked_versions_are_in_the_ranges_of_the_package():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = [Requirement(line) for line in lines]
    assert all(len(each.specifier) == 1 and next(iter(each.specifier)).operator == "==" for each in locked)
    wanted = {each.name: each.specifier for each in map(Requirement, re.findall(r'"(\w[\w-]*[=>]=[^"]+)"', PYPROJECT))}
    found = [(each, wanted[each.name]) for each in locked if each.name in wanted]
    assert len(found) > 5
    assert not [str(each) for each, range_ in found if not range_.contains(next(iter(each.specifier)).version)]


def test_the_site_lists_every_page():
    listed = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert listed == {path.name for path in chain(ROOT.glob("*.md"), (ROOT / "docs").glob("*.md"))}


def test_the_first_contribution_works_as_written(tmp_path, monkeypatch):
    (block,) = (each for each in blocks(ROOT / "CONTRIBUTING.md") if ".cyjs" in each.text)
    for table, line in zip(("SUFFIXES", "_WRITERS", "_READERS"), block.text.splitlines(), strict=True):
        ((name, entry),) = eval(f"{{{line}}}", vars(graph_formats)).items()
        monkeypatch.setitem(getattr(graph_formats, table), name, entry)
    graph = random_scene()[1]
    graph_formats.save_graph(graph, tmp_path / "scene.cyjs")
    assert graph_formats.read_graph(tmp_path / "scene.cyjs") == graph


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_its_links_lead_somewhere(tmp_path):
    pytest.importorskip("material", reason="needs mkdocs-material")
    base = "https://example.org/user/project"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = {**os.environ, "REPO_URL": base, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("index.html")}
    assert 'id="usg_psg.predictor.SceneGraphPredictor.from_pretrained"' in pages[tmp_path / "api" / "index.html"]
    links = [(page, link) for page, text in pages.items() for link in re.findall(r'(?:href|src)="([^"]+)"', text)]
    outside = {link.removeprefix(f"{base}/blob/main/") for _, link in links if link.startswith(f"{base}/blob/")}
    assert "configs/psg/usg_par_best.yaml" in outside
    assert not [link for link in outside if not (ROOT / link.partition("#")[0]).exists()]
    inside = [(page, re.split("[#?]", link)[0]) for page, link in links if not re.match(r"[a-z]+:|/|#", link)]
    assert not [link for page, link in inside if not (page.parent / link).exists()]
