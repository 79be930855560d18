"""Pictures of scene graphs."""

from ..utils.text import display_names
from .colors import class_color
from .comparison import compare_graphs, draw_comparison
from .graph import WEAK_SCORE, draw_graph
from .overlay import draw_overlay, save_overlay
from .page import PageItem, PageWriter, write_page

__all__ = [
    "WEAK_SCORE",
    "PageItem",
    "PageWriter",
    "class_color",
    "compare_graphs",
    "display_names",
    "draw_comparison",
    "draw_graph",
    "draw_overlay",
    "save_overlay",
    "write_page",
]
