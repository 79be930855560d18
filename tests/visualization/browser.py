"""A page of scene graphs in a browser, as the tests read it."""

from usg_psg.visualization import PageItem

from .scenes import random_scene


def wait_for(page, name, value):
    """Until the page says so; it does after the frame in which it draws what is lit."""
    page.wait_for_function("([name, value]) => document.body.dataset[name] === value", arg=[name, value])


def rows(page, of="relations"):
    return page.locator(f"#{of} .row:visible")


def scene_item(name="a", **kwargs):
    image, graph, _ = random_scene(**kwargs)
    return PageItem(name, image, graph)
