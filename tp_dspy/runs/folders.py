"""Where runs are kept: folders and files named after what a user named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["file_name", "folder_of"]


def folder_of(run_dir: Path | None, name: str, names: Sequence[str]) -> Path | None:
    """Choose the folder of one of several targets, whose names may hold what no file system takes."""
    if run_dir is None:
        return None
    files = [file_name(other) for other in names]
    own = files[names.index(name)]
    return run_dir / (own if files.count(own) == 1 else f"{own}-{names.index(name)}")


def file_name(name: str) -> str:
    """Make a name that every file system takes."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "target"
