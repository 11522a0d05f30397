"""Log compiles to MLflow."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from tp_dspy.trackers.notes import Notes
from tp_dspy.trackers.portable import portable_lm, portable_program
from tp_dspy.trackers.tracker import Entry, Status, Tracker, import_or_tell

__all__ = ["MLflowTracker"]

# What MLflow takes: characters of a parameter and of a tag, and parameters or tags in one request.
_LONGEST_PARAM, _LONGEST_TAG, _MOST = 6000, 8000, 100
_PARENT = "mlflow.parentRunId"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class MLflowTracker(Tracker):
    """Logs each compile to MLflow: settings, the course of the search, what was spent, what was found.

    It goes into the run that is active, such as the one that ``mlflow.dspy.autolog(log_compiles=True)`` opens around
    ``compile``, and leaves it to whoever opened it to end it. Where there is none, or the active one has a compile
    already or other values for the same parameters, it makes a run of its own (below the active one), which ends with
    the compile. Held-out figures that come later are added to the run. Of several targets each has a child run.

    ``autolog(log_traces_from_eval=False)`` silences `dspy.Evaluate` only, not `ObjectiveEvaluator.evaluate`. MLflow
    itself tries a server that does not answer for minutes; ``MLFLOW_HTTP_REQUEST_MAX_RETRIES=1`` makes it give up.

    Args:
        experiment: Name of the experiment for runs of its own, made when missing; by default the active one.
        tracking_uri: Where to log; by default where MLflow logs to.
        run_name: Name of runs of its own; by default MLflow makes one up.
        log_program: Whether to attach the compiled program: its state as JSON, and all of it as a DSPy model of
            MLflow, without API keys and results. A model of MLflow is a pickle: load those that you trust, and do not
            publish it where paths of this machine are a secret: code in it knows the file that it was written in.
        log_report: Whether to attach the HTML report, which takes seconds to draw.

    Raises:
        MissingDependencyError: If mlflow is not installed.
        ConfigurationError: When a compile begins, if it cannot be logged.
    """

    _name = "MLflow"

    def __init__(
        self,
        experiment: str | None = None,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        *,
        log_program: bool = True,
        log_report: bool = True,
    ) -> None:
        super().__init__(log_program=log_program, log_report=log_report)
        self._mlflow = import_or_tell("mlflow", type(self).__name__)
        self._experiment, self._uri, self._run_name = experiment, tracking_uri, run_name
        self._client: Any = None
        self._runs: dict[str, str] = {}
        self._own: list[str] = []
        self._ended: list[str] = []

    @property
    def run_id(self) -> str | None:
        """Id of the run of the last compile."""
        return self._runs.get("")

    def _open(self, planned: Notes) -> None:
        self._runs, self._own, self._ended = {}, [], []
        mlflow = self._mlflow
        elsewhere = self._uri is not None and self._uri != mlflow.get_tracking_uri()
        self._client = mlflow.MlflowClient(tracking_uri=self._uri)
        active = None if elsewhere else mlflow.active_run()
        if active is None:
            self._create("", self._experiment_id(elsewhere), self._run_name)
        elif _takes(data := self._client.get_run(active.info.run_id).data, planned):
            self._runs[""] = active.info.run_id
            if "tp_dspy.error" in data.tags:
                # Of an earlier try, which this one takes up again.
                self._client.delete_tag(active.info.run_id, "tp_dspy.error")
        else:
            self._create("", active.info.experiment_id, self._run_name, parent=active.info.run_id)

    def _experiment_id(self, elsewhere: bool) -> str:
        if self._experiment is None:
            # Fluent functions know the active experiment, and say it to nobody else.
            return "0" if elsewhere else str(self._mlflow.tracking.fluent._get_experiment_id())
        known = self._client.get_experiment_by_name(self._experiment)
        return str(known.experiment_id if known is not None else self._client.create_experiment(self._experiment))

    def _create(self, target: str, experiment_id: str, name: str | None, parent: str | None = None) -> str:
        # Through the client, so that no run of ours is ever left behind as the active one.
        tags = self._mlflow.tracking.context.registry.resolve_tags({_PARENT: parent} if parent else None)
        run_id: str = self._client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        self._runs[target] = run_id
        self._own.append(run_id)
        return run_id

    def _run_of(self, target: str) -> str:
        """Give the run of a target, which begins with the first that is known of it."""
        if target in self._runs:
            return self._runs[target]
        parent = self._client.get_run(self._runs[""])
        run_id = self._create(target, parent.info.experiment_id, target, parent=parent.info.run_id)
        self._log_batch(run_id, params=parent.data.params, tags={"tp_dspy.target": target})
        return run_id

    def _send(self, entries: Sequence[Entry]) -> None:
        metric = self._mlflow.entities.Metric
        for target in dict.fromkeys(entry.notes.target for entry in entries):
            run_id = self._run_of(target)
            params: dict[str, str] = {}
            tags: dict[str, str] = {}
            metrics: list[Any] = []
            for entry in entries:
                if (notes := entry.notes).target == target:
                    params |= _as_params(notes.params)
                    tags |= {f"tp_dspy.{name}": text for name, text in notes.tags.items()}
                    at = int(1000 * entry.time)
                    metrics += [metric(name, value, at, notes.step) for name, value in notes.metrics.items()]
                    self._log_files(run_id, notes)
            self._log_batch(run_id, params=params, tags=tags, metrics=metrics)

    def _log_batch(
        self, run_id: str, *, params: Mapping[str, str], tags: Mapping[str, str], metrics: Sequence[Any] = ()
    ) -> None:
        entities = self._mlflow.entities
        listed = [entities.Param(name, value) for name, value in params.items()]
        tagged = [entities.RunTag(name, _cut(text, _LONGEST_TAG)) for name, text in tags.items()]
        with self._logging_there():
            for start in range(0, max(len(listed), len(tagged), len(metrics), 1), _MOST):
                part = slice(start, start + _MOST)
                self._client.log_batch(run_id, metrics=metrics[part], params=listed[part], tags=tagged[part])

    def _log_files(self, run_id: str, notes: Notes) -> None:
        for name, text in notes.texts.items():
            self._client.log_text(run_id, text, name)
        for name, rows in notes.tables.items():
            if rows:
                # As a dictionary of columns and rows, which is written anew where a table would be added to.
                table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
                self._client.log_dict(run_id, table, f"{name}.json")

    def _attach(self, target: str, folder: Path) -> None:
        self._client.log_artifacts(self._run_of(target), str(folder))

    def _attach_program(self, target: str, program: dspy.Module) -> None:
        bare = portable_program(program)
        versions = [f"{name}=={importlib.metadata.version(name)}" for name in ("dspy", "tp_dspy")]
        kept: dict[str, Any] = {"lm": portable_lm(dspy.settings.lm), "callbacks": [], "rm": None}
        run = self._client.get_run(self._run_of(target))
        with self._logging_there(), dspy.context(**kept):
            # Made here, for MLflow would put it into the active experiment, whatever the run's is.
            model = self._client.create_logged_model(
                run.info.experiment_id, name="program", source_run_id=run.info.run_id, params=run.data.params
            )
            self._mlflow.models.Model.log(
                artifact_path=None,
                model_id=model.model_id,
                flavor=self._mlflow.dspy,
                model=bare,
                run_id=run.info.run_id,
                # Said, because to find them out MLflow would load the program in a process of its own.
                pip_requirements=versions,
                use_dspy_model_save=True,
            )

    @contextlib.contextmanager
    def _logging_there(self) -> Iterator[None]:
        """Let MLflow's own functions log to this tracker's address, and know nothing of a model that is active here."""
        mlflow = self._mlflow
        before, model = mlflow.get_tracking_uri(), mlflow.get_active_model_id()
        if self._uri is None or self._uri == before:
            yield
            return
        mlflow.set_tracking_uri(self._uri)
        if model is not None:
            mlflow.clear_active_model()
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)
            if model is not None:
                mlflow.set_active_model(model_id=model)

    def _end(self, status: Status) -> None:
        if status != "finished":
            self._own, self._ended = self._ended + self._own, []
        while self._own:
            self._client.set_terminated(self._own[-1], status=_STATUS[status])
            self._own.pop()

    def _compile_ended(self) -> None:
        # Figures can be added to a run that has ended, and what follows may never come. If it fails, so has the run.
        self._ended = list(self._own)
        self._end("finished")

    def _target_ended(self, target: str) -> None:
        run_id = self._runs[target]
        if run_id in self._own:
            self._client.set_terminated(run_id, status="FINISHED")
            self._own.remove(run_id)


def _takes(data: Any, planned: Notes) -> bool:
    """Say whether a run has room for a compile: parameters cannot be changed, and two winners would mix."""
    params = _as_params(planned.params)
    same = all(data.params.get(name, value) == value for name, value in params.items())
    return same and data.tags.get("tp_dspy.state") not in ("ended", "compiled")


def _as_params(params: Mapping[str, Any]) -> dict[str, str]:
    return {name: _cut(str(value), _LONGEST_PARAM) for name, value in params.items()}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
