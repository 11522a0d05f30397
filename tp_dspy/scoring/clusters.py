"""Dask clusters: those of others, and one on this machine."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from tp_dspy.errors import ConfigurationError, MissingDependencyError
from tp_dspy.lms.embedded import embedded_key

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["LEAN", "DaskExecutor", "connected", "kept", "local", "wait_for_worker"]

LEAN: Mapping[str, Any] = {
    # Dask would look at the stacks of all threads a hundred times a second, measure its event loop's delay fifty times,
    # and its process's CPU and memory twice: a third of the CPU of a worker with many threads that mostly wait.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}
"""Settings of Dask for workers whose threads mostly wait."""

# Seconds that a cluster may take until it has a worker, and a scheduler until it answers.
_PATIENCE, _REACHED = 60.0, 20.0


class DaskExecutor(Executor):
    """A client's cluster as an executor.

    That of distributed itself leaves a future open for ever whose result could not be fetched, as when the scheduler
    is lost.
    """

    def __init__(self, client: Client) -> None:
        self.client = client

    def submit(self, function: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        """Begin a call."""
        made: Future[Any] = Future()
        future = self.client.submit(function, *args, pure=False, **more)

        async def fetch() -> None:
            try:
                result = await future
            except BaseException as error:
                with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                    made.set_exception(error)
            else:
                with contextlib.suppress(InvalidStateError):
                    made.set_result(result)

        def cancelled(done: Future[Any]) -> None:
            if done.cancelled():
                with contextlib.suppress(Exception):  # of a cluster that is gone
                    self.client.loop.add_callback(functools.partial(self.client.cancel, [future], asynchronous=True))

        made.add_done_callback(cancelled)
        self.client.loop.add_callback(fetch)
        return made


def wait_for_worker(client: Client) -> None:
    """Make sure that a cluster has a worker.

    Raises:
        ConfigurationError: If it has none for a minute.
    """
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError as error:
        raise ConfigurationError(
            f"The Dask cluster at {client.scheduler.address} had no worker for {_PATIENCE:g} seconds; start one with "
            f"`dask worker {client.scheduler.address}`."
        ) from error


def _dask() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingDependencyError(
            'A Dask cluster needs the package distributed: `pip install "tp_dspy[distributed]"`, or in a checkout '
            "`uv sync --extra distributed`."
        ) from error
    return distributed


_clients: dict[str, Client] = {}
_clients_lock = threading.Lock()


def kept(name: str, make: Callable[[], Client]) -> Client:
    """Give the client of a cluster, the same for all who ask, and a new one where it was lost."""
    with _clients_lock:
        if name not in _clients or _clients[name].status != "running":
            _clients[name] = make()
        return _clients[name]


def connected(address: str) -> Client:
    """Connect to a scheduler, by host:port.

    Raises:
        ConfigurationError: If there is none.
        MissingDependencyError: If distributed is not installed.
    """
    try:
        return _dask().Client(f"tcp://{address}", timeout=_REACHED, direct_to_workers=True, set_as_default=False)
    except OSError as error:
        raise ConfigurationError(
            f"There is no Dask scheduler at {address} ({error}); start one with `dask scheduler`, and give "
            "dask://host:port as it says."
        ) from error


def local(threads: int) -> Client:
    """Start worker processes on this machine: one a core, with so many threads together."""
    distributed = _dask()
    import dask

    embedded_key()  # in the environment that they inherit
    processes = min(os.cpu_count() or 1, threads)
    with dask.config.set(LEAN):
        cluster = distributed.LocalCluster(
            n_workers=processes,
            threads_per_worker=math.ceil(threads / processes),
            memory_limit=0,
            dashboard_address=":0",
            silence_logs=logging.ERROR,
        )
    client = distributed.Client(cluster, direct_to_workers=True, set_as_default=False)
    atexit.register(cluster.close)
    atexit.register(client.close)  # first
    return client
