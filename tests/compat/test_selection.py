"""Which engine `import detectron2` gives."""

from __future__ import annotations

import textwrap

import pytest

from .engines import ROOT, real_is_installed, run_python

COMPAT = ROOT / "usg_psg" / "compat"


def select(code: str, engine: str | None, **options) -> str:
    """Load the compat module by itself (the package would import the whole model), then run code."""
    load = f"""
        import importlib.util, logging, sys
        def load():
            spec = importlib.util.spec_from_file_location("compat", r"{COMPAT / "__init__.py"}")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    """
    return run_python("-c", textwrap.dedent(load) + textwrap.dedent(code), engine=engine, **options)


SHOW = """
    compat = load()
    import detectron2
    print("ENGINE", compat.engine_name(), detectron2.__file__)
"""


def test_bundled_is_used_on_demand():
    assert f"ENGINE bundled {COMPAT}" in select(SHOW, "bundled")


def test_auto_prefers_the_installed_package():
    shown = select(SHOW, None)
    assert ("ENGINE detectron2" if real_is_installed() else f"ENGINE bundled {COMPAT}") in shown
    assert (str(COMPAT) in shown) != real_is_installed()


@pytest.mark.skipif(real_is_installed(), reason="Detectron2 is installed")
def test_missing_package_is_an_error_with_the_install_command():
    shown = select(SHOW, "detectron2", check=False)
    assert "ImportError" in shown and "pip install --no-build-isolation 'git+https://github.com" in shown


def test_unknown_engine_is_an_error():
    shown = select(SHOW, "detectron3", check=False)
    assert "ValueError: USG_PSG_ENGINE must be one of auto, detectron2, bundled, got 'detectron3'" in shown


def test_finder_knows_one_name_only():
    code = """
        compat = load()
        finder = compat.BundledFinder()
        print([finder.find_spec(n) for n in ("detectron", "detectron2.data", "usg_psg", "detectron2x")])
        print(finder.find_spec("detectron2").name)
    """
    assert "[None, None, None, None]\ndetectron2\n" in select(code, "bundled")


def test_engine_imported_before_is_kept_and_said():
    code = """
        import types
        sys.modules["detectron2"] = types.ModuleType("detectron2")
        logging.basicConfig(level=logging.INFO)
        print("ENGINE", load().engine_name())
    """
    shown = select(code, "bundled")
    assert "ENGINE detectron2" in shown
    assert "USG_PSG_ENGINE=bundled has no effect: detectron2 was imported before" in shown


@pytest.mark.skipif(real_is_installed(), reason="Detectron2 is installed")
def test_bare_folder_is_not_taken_for_the_package(tmp_path):
    """A checkout of Detectron2's repository in the working directory is a namespace package to Python."""
    (tmp_path / "detectron2").mkdir()
    assert f"ENGINE bundled {COMPAT}" in select(SHOW, None, cwd=tmp_path)


@pytest.mark.parametrize("configured_before", [True, False])
def test_one_log_line_says_which_engine(configured_before):
    code = f"""
        configure = lambda: logging.basicConfig(level=logging.INFO, format="LOG %(message)s")
        if {configured_before}: configure()
        compat = load()
        configure()
        compat.log_engine()
        compat.log_engine()
        compat.select_engine()
    """
    shown = select(code, "bundled")
    assert shown.count("LOG engine: bundled subset") == 1


def test_finder_is_installed_once():
    code = """
        compat = load()
        compat.select_engine("bundled"); compat.select_engine("auto"); compat.select_engine("bundled")
        print("COUNT", sum(type(f).__name__ == "BundledFinder" for f in sys.meta_path), type(sys.meta_path[0]).__name__)
    """
    assert "COUNT 1 BundledFinder" in select(code, "bundled")
