"""The documentation as a site: it builds, it is whole, and a broken link fails the build."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dpc
import site_pages
from rooms import room_of
from tests.paths import ROOT
from tests.test_house import MODULES
from tracked import tracked_files

pytestmark = pytest.mark.xdist_group("site")

# Programs, and the recipe of the embedded model: users run them.
NOT_IN_THE_REFERENCE = {"api", "cli", "zoo", "__main__"}


def build(checkout: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(output)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def copy_checkout(folder: Path) -> None:
    """What the site is built from: files that git tracks, without the weights of the embedded model."""
    parts = ("docs", "src", "scripts", "benchmarks", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mkdocs.yml")
    for name in tracked_files():
        if name.split("/")[0] in parts and not name.endswith(".safetensors"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site")
    done = build(ROOT, output)
    assert done.returncode == 0, done.stderr
    return output


def anchors(site: Path) -> set[str]:
    """All anchors of the API reference."""
    return {
        name for page in (site / "api").glob("*.html") for name in re.findall(r'id="(dpc[\w.]*)"', page.read_text())
    }


def test_every_name_of_import_dpc_is_in_the_reference(site: Path) -> None:
    homes = {"Method": "dpc.methods.method.Method", "Task": "dpc.tasks.base.Task"}
    assert {homes.get(name, f"dpc.{name}") for name in dpc.__all__} <= anchors(site)


def test_every_module_is_in_the_reference(site: Path) -> None:
    modules = MODULES.keys() - {"dpc"}
    assert {name for name in modules if room_of(name) not in NOT_IN_THE_REFERENCE} <= anchors(site)


def test_private_names_are_not_in_the_reference(site: Path) -> None:
    assert not [name for name in anchors(site) if "._" in name]


def test_an_object_is_shown_in_one_place(site: Path) -> None:
    assert "dpc.stats.intervals.wilson" in anchors(site)
    headings = re.findall(r'<h\d[^>]* id="(dpc[\w.]*)"', (site / "api/stats.html").read_text())
    assert "dpc.stats.wilson" not in headings


def test_signatures_have_types_with_shapes(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "api/values.html").read_text())
    assert 'scores: Float[Tensor, "layer row prompt"]' in html.unescape(text)


def test_pages_load_nothing_from_another_host(site: Path) -> None:
    loaded = r'<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]*)"'
    assert not [url for page in site.rglob("*.html") for url in re.findall(loaded, page.read_text())]


def test_the_readme_is_the_front_page_with_its_pictures(site: Path) -> None:
    text = (site / "index.html").read_text()
    pictures = re.findall(r'<img [^>]*src="([^"]+)"', text)
    assert pictures
    assert all((site / picture).is_file() for picture in pictures)
    assert 'href="tutorial.html"' in text
    assert 'href="embedded-model.html"' in text


def test_a_linked_file_without_a_page_is_copied(site: Path) -> None:
    assert 'href="benchmarks/naive.py"' in (site / "benchmarks.html").read_text()
    assert (site / "benchmarks/naive.py").read_bytes() == (ROOT / "benchmarks/naive.py").read_bytes()


def test_the_tutorial_is_shown_with_its_outputs(site: Path) -> None:
    text = (site / "tutorial.html").read_text()
    assert re.search(r"<iframe [^>]*srcdoc=", text)
    assert text.count('src="data:image/png;base64,') == 2


def test_what_is_broken_fails_the_build_and_a_stray_page_does_not(tmp_path: Path) -> None:
    copy_checkout(tmp_path)
    with (tmp_path / "docs/costs.md").open("a") as file:
        file.write("\n[page](no-page.md) [heading](results.md#no-heading) [object][dpc.no_object]\n")
    with (tmp_path / "README.md").open("a") as file:
        file.write("\n[file](docs/no-file.md)\n")
    (tmp_path / "docs/alone.md").write_text("# Not in the navigation\n")
    for arguments in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "docs/stray.md").write_text("[page](no-such-page.md)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for broken in ("no-page.md", "#no-heading", "dpc.no_object", "no-file.md", "alone.md"):
        assert broken in done.stderr
    assert "stray" not in done.stderr


def test_a_notebook_becomes_markdown_with_its_outputs() -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
        {"output_type": "execute_result", "data": {"text/plain": ["3"], "text/html": ["<b>3</b>"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": ["x = 1"], "outputs": []},
        {"cell_type": "code", "source": ["x"], "outputs": outputs},
    ]
    assert site_pages.notebook_markdown({"cells": cells}).split("\n\n") == [
        "# Title\ntext",
        "```python\nx = 1\n```",
        "```python\nx\n```",
        '<div class="result" markdown>',
        "```text\none\ntwo\n```",
        '<div markdown="0"><b>3</b></div>',
        "</div>\n",
    ]
