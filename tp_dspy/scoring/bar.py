"""A progress bar around work that takes long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["watched"]

Item = TypeVar("Item")


def watched(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Pass items on, with a bar on a terminal (on standard error) or in a notebook; elsewhere nothing is shown.

    Args:
        items: What is worked on.
        total: How many there will be.
        what: What the bar is called.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = console.is_terminal or console.is_jupyter
    yield from track(items, what, total, console=console, transient=True, disable=not shown)
