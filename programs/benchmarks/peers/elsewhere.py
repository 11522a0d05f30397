"""Cells in other processes, on a Dask cluster: each is a compile of its own, and needs nothing of the others.

What travels to a worker names the LMs and the tasks; it makes and reads them itself, with its own keys and data, and
what travels back is the cell, as it would be in its file.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import dspy

from programs.benchmarks.peers.bench import Bench, Cell
from programs.benchmarks.peers.setting import Setting
from programs.benchmarks.peers.suite import Target
from tp_dspy import Task
from tp_dspy.errors import ConfigurationError
from tp_dspy.lms.specs import is_local
from tp_dspy.scoring.clusters import DaskExecutor, connected, local, wait_for_worker
from tp_dspy.scoring.dispatch import Dispatch

__all__ = ["Places", "run_cell"]

# What keeps optimisers off the terminal is the whole process's, and so is DSPy's cache.
_one_at_a_time = threading.Lock()


class Places:
    """The workers of a cluster, each of which runs one cell at a time.

    Args:
        executor: "dask" for worker processes on this machine, one a core, or "dask://host:port".
        benches: Those whose cells are to be run.

    Raises:
        ConfigurationError: If it is neither, there is no such cluster, or a bench has a local LM without a server,
            which each worker would load for itself.
        MissingDependencyError: If distributed is not installed.
    """

    def __init__(self, executor: str, benches: Iterable[Bench]) -> None:
        for setting, (server, other) in ((bench.setting, bench.servers) for bench in benches):
            # One server does for both where they are one file.
            served = {setting.scorer: server} | (
                {} if setting.reference == setting.scorer else {setting.reference: other}
            )
            alone = next((lm for lm, url in served.items() if is_local(lm) and url is None), None)
            if alone is not None:
                raise ConfigurationError(
                    f"--executor with the local LM {alone}: each worker would load it for itself. Give --server, "
                    "the address of a server that all workers reach."
                )
        if executor == "dask":
            self.client = local(os.cpu_count() or 1)
        elif executor.startswith("dask://"):
            self.client = connected(executor.removeprefix("dask://"))
        else:
            raise ConfigurationError(f"--executor is {executor!r}; expected dask or dask://host:port.")
        wait_for_worker(self.client)

    def run(
        self, todo: Iterable[tuple[Bench, Cell, Target]], tasks: Mapping[str, Task]
    ) -> Iterator[tuple[Bench, Cell, dict[str, Any] | Exception]]:
        """Run cells, the first of them first; gives each as it ends, or why it could not be run.

        After one that could not be run, no further one begins.

        Args:
            todo: The cells, each with the bench that keeps it. Benches that take turns in it get the same share of the
                workers.
            tasks: Tasks that no worker can load by their name.
        """
        executor = DaskExecutor(self.client)

        def begin(one: tuple[Bench, Cell, Target]) -> Future[dict[str, Any]]:
            bench, cell, target = one
            given = {name: tasks[name] for name in (target.name, *target.sources) if name in tasks}
            where = (bench.setting, bench.threads, bench.servers)
            return executor.submit(run_cell, *where, cell, target, given)

        dispatch = Dispatch(todo, begin, room=self._workers)
        for (bench, cell, _), future in dispatch:
            error = future.exception()
            if error is not None:
                dispatch.close()
                if not isinstance(error, Exception):
                    raise error
            yield bench, cell, error if error is not None else future.result()

    def _workers(self) -> int:
        # Of the workers themselves the client forgets within seconds.
        return int(self.client.scheduler_info(n_workers=0)["n_workers"])


def run_cell(
    setting: Setting,
    threads: int,
    servers: tuple[str | None, str | None],
    cell: Cell,
    target: Target,
    tasks: Mapping[str, Task],
) -> dict[str, Any]:
    """Run a cell in this process, and give it; what it was made from stays for the next one."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("tp_dspy", "dspy"):
            logging.getLogger(name).setLevel(logging.ERROR)
        bench = _bench(setting, threads, servers)
        bench.tasks.update(tasks)
        return bench.run(cell, target)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Make the folder of this process, which goes with it, and have DSPy's cache there: for all LMs."""
    folder = tempfile.TemporaryDirectory(prefix="tp_dspy-peers-", ignore_cleanup_errors=True)
    dspy.configure_cache(disk_cache_dir=f"{folder.name}/cache")
    return folder


@functools.cache
def _bench(setting: Setting, threads: int, servers: tuple[str | None, str | None]) -> Bench:
    return Bench(setting, Path(_folder().name), threads, servers=servers)
