"""List the files of the repository: those that git tracks, so that a stray log or notebook fails no check.

``python scripts/tracked.py .py .ipynb`` prints the tracked files with these suffixes, one per line. A new file counts
once ``git add`` has added it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What tools write into a checkout. Only used where git can't tell.
_WRITTEN_BY_TOOLS = re.compile(
    r"__pycache__|\.egg-info|(^|/)(\.coverage|(\.\w+_cache|\.hypothesis|\.git|\.venv|build|dist|runs|site)/)"
)


def tracked_files(root: Path = ROOT) -> list[str]:
    """Paths relative to ``root`` of all files in git's index that exist on disk, sorted.

    Without git, as in an unpacked archive, these are all files on disk, except for what tools write.
    """
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    # An archive unpacked inside another repository: git answers, but tracks none of its files.
    if listing.returncode == 0 and listing.stdout:
        return sorted(path for path in set(listing.stdout.split("\0")) if path and (root / path).is_file())
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(path for path in paths if not _WRITTEN_BY_TOOLS.search(path))


if __name__ == "__main__":
    print(*(path for path in tracked_files() if path.endswith(tuple(sys.argv[1:]))), sep="\n")
