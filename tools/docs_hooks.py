"""Hooks of MkDocs: links to files of the repository outside ``docs/``, and a copy of MathJax."""

from __future__ import annotations

import os
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[([^\]\n]+)\]\((?!https?:|#)([^)\s]+)\)")
COPIES = {"contributing.md": "CONTRIBUTING.md"}
"""Pages whose text is that of a file at the root."""

MATHJAX = ("tex-chtml.js", "output")
"""Parts of MathJax that the site loads."""


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Replace links to files outside ``docs/``, which the site does not contain, by their paths.

    Raises:
        FileNotFoundError: there is no such file.
    """
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    source = Path(page.file.abs_src_path)
    if page.file.src_path in COPIES:
        source = root / COPIES[page.file.src_path]
        markdown = source.read_text(encoding="utf-8")

    def on_site(link: re.Match[str]) -> str:
        name, target = link.groups()
        path, hash_, anchor = target.partition("#")
        found = (source.parent / path).resolve()
        if found.is_relative_to(docs):
            return f"[{name}]({os.path.relpath(found, Path(page.file.abs_src_path).parent)}{hash_}{anchor})"
        if not found.exists():
            raise FileNotFoundError(f"{page.file.src_path}: a link to {target}, which is not in the repository")
        place = found.relative_to(root).as_posix()
        return f"`{place}`" if name.strip("`") in place else f"{name} (`{place}`)"

    return LINK.sub(on_site, markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Copy MathJax into the site, so that equations need no network."""
    source = Path(str(files("mathjax"))) / "static/mathjax/es5"
    target = Path(config.site_dir) / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    for name in MATHJAX:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        else:
            shutil.copy2(source / name, target / name)
