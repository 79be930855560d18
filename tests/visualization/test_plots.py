"""Figures of results that have nothing to draw."""

import numpy as np

from usg_psg.evaluation import GroundTruth, Prediction, SGDetMetrics
from usg_psg.visualization.plots import save_plots


def test_a_split_without_relations(tmp_path):
    metrics = SGDetMetrics(3)
    no_rows = np.zeros((0, 3), dtype=np.int64)
    label_map = np.ones((4, 4), dtype=np.int64)
    metrics.update(GroundTruth([0], no_rows, label_map), Prediction([0], no_rows, label_map[None] == 1))
    paths = save_plots(tmp_path, metrics.compute(), ["on", "in", "over"])
    assert len(paths) == 3 and all(path.stat().st_size for path in paths)


def test_names_with_signs_of_formulas(tmp_path):
    """Dollars and braces are text."""
    metrics = SGDetMetrics(3)
    label_map = np.array([[1, 2]])
    rows = np.array([[0, 1, 0], [0, 1, 1]])
    masks = label_map[None] == np.array([1, 2])[:, None, None]
    metrics.update(GroundTruth([0, 0], rows, label_map), Prediction([0, 0], rows, masks))
    assert len(save_plots(tmp_path, metrics.compute(), ["$x^{", r"$\frac$", "{}"])) == 3
