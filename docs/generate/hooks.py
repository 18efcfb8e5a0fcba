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

LOG = logging.getLogger("mkdocs.plugins.poisonbench")
LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\s(?:src|href)=["']?((?:https?:)?//[^"'>\s]+)""")
SOURCES = {"contributing.md": "CONTRIBUTING.md"}  # pages whose text is a file at the top of the repository


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
    """Warn of every page that would load something from a network, which fails a strict build."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        for found in LOADED.findall(path.read_text(encoding="utf-8")):
            LOG.warning("%s loads %s from the network", path.relative_to(config.site_dir), found)


def source(uri: str) -> str:
    """Return the path, within the repository, that the links of a page are relative to."""
    return SOURCES.get(uri, f"docs/{uri}")


def _linked(files: Files) -> Iterator[str]:
    for file in files.documentation_pages():
        yield from copied(file.content_string, source(file.src_uri))
