"""The bundled engine beside Detectron2 itself: signatures, defaults and numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .engines import needs_real, run_python

PROBE = str(Path(__file__).with_name("parity_probe.py"))
PARTS = ("learning_rates", "scaling", "structures", "transforms")


@pytest.fixture(scope="module")
def behaviours(tmp_path_factory) -> tuple[dict, dict]:
    """Results of the probe on the bundled engine and on Detectron2."""
    folder = tmp_path_factory.mktemp("parity")
    bundled, real = folder / "bundled.json", folder / "real.json"
    run_python(PROBE, str(bundled), engine="bundled")
    run_python(PROBE, str(real), str(bundled), engine="detectron2")
    return json.loads(bundled.read_text()), json.loads(real.read_text())


@needs_real
def test_signatures_are_detectron2s(behaviours):
    """Every bundled name exists in Detectron2, at the same place, with the same parameters and defaults."""
    bundled, real = (each["signatures"] for each in behaviours)
    differing = {}
    for key, ours in bundled.items():
        if not key.endswith(" methods"):
            pairs = {key: (ours, real[key])}
        else:
            pairs = {f"{key[:-8]}.{name}": (own, real[key][name]) for name, own in ours.items()}
        differing.update({k: pair for k, pair in pairs.items() if pair[0] != pair[1]})
    assert not differing


@needs_real
def test_default_config_is_detectron2s(behaviours):
    """Every default key of the bundled engine has Detectron2's value."""
    bundled, real = (each["configs"] for each in behaviours)
    assert len(bundled) > 70
    assert {key: real.get(key) for key in bundled} == bundled


@needs_real
@pytest.mark.parametrize("part", PARTS)
def test_behaviour_is_detectron2s(behaviours, part):
    """Learning rates, containers, transforms and so on agree, to rounding."""
    bundled, real = (each[part] for each in behaviours)
    assert bundled.keys() == real.keys()
    for key in bundled:
        assert bundled[key] == approximately(real[key]), key


def approximately(value):
    """pytest.approx inside nested lists and dicts."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-6, abs=1e-9)
    if isinstance(value, list):
        return [approximately(each) for each in value]
    return {k: approximately(each) for k, each in value.items()} if isinstance(value, dict) else value
