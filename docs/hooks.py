"""For mkdocs: pages of the repository's root join the site, and links out of docs/ lead to the repository."""

import re
from os.path import dirname, join, normpath, relpath
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
LINK = re.compile(r'(?P<before>\]\(|(?:src|href)=")(?P<path>[^\s)"#:]+)')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root; README.md becomes the first one."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links from paths in the repository, as GitHub follows them, to paths in the site."""
    source = page.file.src_uri
    folder = dirname(source) if source in PAGES else join("docs", dirname(source))
    # Without an address, as on a contributor's machine: the checkout itself.
    base = f"{config.repo_url}/blob/main" if config.repo_url else ROOT.as_uri()

    def rewrite(link: re.Match[str]) -> str:
        path = normpath(join(folder, link["path"]))
        if not (ROOT / path).exists():
            return link[0]  # no link, or one that mkdocs reports
        if path in PAGES or path.startswith("docs/"):
            return link["before"] + relpath(path.removeprefix("docs/"), dirname(source) or ".")
        return f"{link['before']}{base}/{path}"

    return LINK.sub(rewrite, markdown)
