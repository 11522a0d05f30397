"""What every test gets: DSPy as it is on its first import, and no cache that outlives the test."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator

# Read when dspy is imported: nothing of a test may land in the user's own cache, nor come from it.
os.environ.setdefault("DSPY_CACHEDIR", tempfile.mkdtemp(prefix="tp_dspy-tests-"))

import dspy
import pytest


@pytest.fixture(autouse=True)
def clean_dspy() -> Iterator[None]:
    """Give each test an empty cache, and take back what it configured, or a command did that it ran."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    yield
    dspy.configure(lm=None, adapter=None, callbacks=[], track_usage=False)
    logging.disable(logging.NOTSET)
