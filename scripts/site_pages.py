"""Pages of the site that are no Markdown files in ``docs/``: a hook of MkDocs, named in ``mkdocs.yml``.

A link in a document is a path in the repository, so it works there. On the site it leads to the page of that file. A
file without a page, such as a script, is copied.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tracked import tracked_files

ROOT = Path(__file__).resolve().parent.parent

# Page of the site: the document that it shows.
DOCUMENTS = {
    "index.md": "README.md",
    "tutorial.md": "docs/tutorial.ipynb",
    "benchmarks.md": "benchmarks/README.md",
    "embedded-model.md": "src/dpc/zoo/model/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
_PAGES = {document: page for page, document in DOCUMENTS.items()}
_NAMED = re.compile(r"[\w./-]+\.md")
_LINK = re.compile(r"(?<=\]\()(?P<path>[^()\s#:]+)(?=[#)\s])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of ``DOCUMENTS``; leave out stray pages, which neither git nor the navigation knows."""
    known = {name.removeprefix("docs/") for name in tracked_files(ROOT)} | set(_NAMED.findall(str(config.nav)))
    for file in files.documentation_pages():
        if file.src_uri not in known:
            files.remove(file)
    for page, document in DOCUMENTS.items():
        text = (ROOT / document).read_text("utf-8")
        content = notebook_markdown(json.loads(text)) if document.endswith(".ipynb") else text
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn paths in the repository into paths on the site, and add the files that have no page."""
    here = page.file.src_uri
    folder = posixpath.dirname(DOCUMENTS.get(here, f"docs/{here}"))

    def on_site(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link["path"]))
        target = _PAGES.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(target) is None and (ROOT / path).is_file():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / path)))
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    return _LINK.sub(on_site, markdown)


def notebook_markdown(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown, with the outputs that are kept in it."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else _fenced("python", source))
        if outputs := [_output(output) for output in cell.get("outputs", ())]:
            parts += ['<div class="result" markdown>', *outputs, "</div>"]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text")})
    if "text/html" in data:
        return f'<div markdown="0">{"".join(data["text/html"])}</div>'
    if "image/png" in data:
        return f'<img alt="Figure" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    return _fenced("text", "".join(data["text/plain"]))


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
