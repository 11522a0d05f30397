"""What the tests of the catalogue share."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tp_dspy.tasks.catalog import DATA_VARIABLE


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write rows where the catalogue looks for them."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv(DATA_VARIABLE, str(folder))

    def write(path, rows, schema=None):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / path)

    return write
