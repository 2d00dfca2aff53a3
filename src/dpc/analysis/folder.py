"""``RUN/analysis``: the figures of a run as SVG and PDF, their data as parquet, and what each was made from."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from dpc.analysis.charts import Columns
from dpc.analysis.figures import FIGURES, Figure
from dpc.analysis.plots import save_figure
from dpc.errors import UserError
from dpc.files import read_json, write_atomically


@dataclass(frozen=True, slots=True)
class Folder:
    """``2a.svg``, ``2a.pdf``, ``2a.parquet`` and so on, and ``analysis.json``, which describes them."""

    path: Path

    @property
    def description(self) -> Path:
        """The texts and numbers of every figure, and what each was made from."""
        return self.path / "analysis.json"

    def figures(self) -> dict[str, Any]:
        """Descriptions of the figures whose files are there, whatever settings they were made with."""
        try:
            known = read_json(self.description, "analysis")
        except UserError:
            return {}
        found = known.get("figures") if isinstance(known, dict) else None
        found = found if isinstance(found, dict) else {}
        return {name: found[name] for name in FIGURES if name in found and self._is_whole(found[name])}

    def _is_whole(self, described: Any) -> bool:
        files = described.get("files") if isinstance(described, dict) else None
        return isinstance(files, list) and all((self.path / str(name)).is_file() for name in files)

    def write(self, name: str, figure: Figure, made_from: dict[str, Any]) -> dict[str, Any]:
        """Write a figure and its data; returns its description. Raises ``UserError`` where it cannot be written."""
        paths = [*save_figure(figure.chart, self.path / name), self.path / f"{name}.parquet"]
        write_table(paths[-1], figure.chart.columns())
        return {
            "title": figure.title,
            "finding": figure.finding,
            "caption": figure.caption,
            "files": [path.name for path in paths],
            "numbers": figure.numbers,
            "from": made_from,
        }


def write_table(path: Path, columns: Columns) -> None:
    """Write columns of equal length as parquet. Raises ``UserError`` where the file cannot be written."""
    content = BytesIO()
    parquet.write_table(pa.table(columns), content)
    write_atomically(path, content.getvalue())
