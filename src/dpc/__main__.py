"""``python -m dpc`` is the command ``dpc``."""

from __future__ import annotations

from dpc.cli import main

if __name__ == "__main__":
    main()
