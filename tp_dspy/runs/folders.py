"""Where runs are kept: folders and files named after what a user named."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

__all__ = ["file_name", "folder_of", "write_whole"]


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


def write_whole(target: Path, content: bytes) -> Path:
    """Write a file, all or nothing: a crash leaves the earlier file as it was, and nobody ever sees half of it.

    Args:
        target: The file; its folder is made when missing.
        content: What it is to hold.

    Returns:
        The path.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the last step is a rename, which happens whole or not at all.
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return target
