"""What mkdocs calls: the generated pages join the written ones, and links to files of the repository lead to copies within the site."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # the command `mkdocs` does not look for packages in the folder it runs in

from docs.generate import gallery, reference
from docs.generate.links import COPIES, address, as_page, copied, for_the_site
from poisonbench.core.plugins import HOME
from poisonbench.report import leaderboard
from poisonbench.report.cells import folded
from poisonbench.report.tables import published

LOG = logging.getLogger("mkdocs.plugins.poisonbench")
BOARD = Path("results/leaderboard/index.html")
LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\s(?:src|href)=["']?((?:https?:)?//[^"'>\s]+)""")
SOURCES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}  # pages whose text is a file at the top of the repository


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files of the repository that pages link to."""
    LOG.info("Generating the reference and the gallery")
    generated = [
        *reference.pages(),
        ("gallery.md", gallery.page_of_all()),
        *((uri, (HOME / source).read_text(encoding="utf-8")) for uri, source in SOURCES.items()),
    ]
    for uri, text in generated:
        files.append(File.generated(config, uri, content=text))
    for path in sorted(set(_linked(files))):
        if (uri := address(path)).endswith(".md"):
            files.append(File.generated(config, uri, content=as_page(path), inclusion=InclusionLevel.NOT_IN_NAV))
        else:
            files.append(File.generated(config, uri, abs_src_path=str(HOME / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to their copies."""
    uri = page.file.src_uri
    return markdown if uri.startswith(f"{COPIES}/") else for_the_site(markdown, source(uri), uri)


def on_post_build(config: MkDocsConfig) -> None:
    """Let the names of the leaderboard link to this site; warn of pages that load something from a network, which fails a strict build."""
    board = Path(config.site_dir) / address(str(BOARD))
    board.write_text(linked_board(board.relative_to(config.site_dir)), encoding="utf-8")
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        for found in LOADED.findall(path.read_text(encoding="utf-8")):
            LOG.warning("%s loads %s from the network", path.relative_to(config.site_dir), found)


def linked_board(place: Path) -> str:
    """Return the leaderboard of the committed records, with links to the gallery and the reference, for a page at `place` within the site."""
    return leaderboard.page(folded(published(HOME / "results" / "records")), "../" * len(place.parent.parts))


def source(uri: str) -> str:
    """Return the path, within the repository, that the links of a page are relative to."""
    return SOURCES.get(uri, f"docs/{uri}")


def _linked(files: Files) -> Iterator[str]:
    for file in files.documentation_pages():
        yield from copied(file.content_string, source(file.src_uri))
