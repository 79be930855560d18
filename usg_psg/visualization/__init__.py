"""Drawings of scene graphs and of evaluations."""

from .colors import class_color
from .comparison import compare_graphs, draw_comparison
from .graph import WEAK_SCORE, draw_graph
from .overlay import draw_overlay, save_overlay
from .page import PageItem, PageWriter, write_page
from .plots import save_plots
from .worst_images import draw_evaluation

__all__ = [
    "WEAK_SCORE",
    "PageItem",
    "PageWriter",
    "class_color",
    "compare_graphs",
    "draw_comparison",
    "draw_evaluation",
    "draw_graph",
    "draw_overlay",
    "save_overlay",
    "save_plots",
    "write_page",
]
