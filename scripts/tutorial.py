"""Execute ``docs/tutorial.ipynb`` from top to bottom and keep its outputs in the file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "tutorial.ipynb"
SECONDS_A_CELL = 600


def execute(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the outputs of a new kernel, without progress bars and times.

    One thread: the numbers then don't depend on how many cores there are, and a busy machine is not slowed down.
    Raises ``CellExecutionError`` where a cell does.
    """
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=SECONDS_A_CELL,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
            # Sockets of this machine alone.
            config=Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"}),
        )
        client.execute(env=os.environ | {"OMP_NUM_THREADS": "1", "IPYTHONDIR": folder, "TMPDIR": folder})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.language_info = NotebookNode(name="python")
    return notebook


if __name__ == "__main__":
    nbformat.write(execute(nbformat.read(NOTEBOOK, as_version=4)), NOTEBOOK)
