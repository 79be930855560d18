"""Pictures of scene graphs."""

from .colors import class_color, display_names
from .graph import draw_graph
from .overlay import draw_overlay
from .page import PageItem, PageWriter, write_page

__all__ = ["PageItem", "PageWriter", "class_color", "display_names", "draw_graph", "draw_overlay", "write_page"]
