"""Log compiles to Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tp_dspy.trackers.notes import Notes
from tp_dspy.trackers.tracker import Entry, Status, Tracker, import_or_tell

__all__ = ["WandbTracker"]

_EXIT = {"finished": 0, "failed": 1, "killed": 255}
_AXES = {"source": "round", "target": "round", "spent": "scorer_calls"}


class WandbTracker(Tracker):
    """Logs each compile to Weights & Biases: settings, the course of the search, what was spent, what was found.

    It goes into the run that is open (``wandb.run``), and leaves it to whoever opened it to finish it. Where there is
    none, or that one has a compile already, it makes a run of its own, which does not become ``wandb.run``. A finished
    run takes no more figures, so it is finished when held-out figures have come (`tp_dspy.experiment.Experiment`), the
    compile failed, the next one begins, `close` is called, or the process ends. Of several targets each has a group of
    figures of its name.

    Args:
        project: The project; by default wandb's own default.
        entity: Whose; by default wandb's own default.
        name: Name of the runs.
        log_program: Whether to attach the compiled program's state, as JSON.
        log_report: Whether to attach the HTML report, which takes seconds to draw.
        **settings: Anything else that ``wandb.init`` takes: ``group``, ``tags``, ``mode="offline"``, ``dir`` ...

    Raises:
        MissingDependencyError: If wandb is not installed.
        ConfigurationError: When a compile begins, if it cannot be logged.
    """

    _name = "Weights & Biases"

    def __init__(
        self,
        project: str | None = None,
        *,
        entity: str | None = None,
        name: str | None = None,
        log_program: bool = True,
        log_report: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(log_program=log_program, log_report=log_report)
        self._wandb = import_or_tell("wandb", type(self).__name__)
        # "create_new": a run beside others, which nobody comes across by accident.
        self._settings = {"project": project, "entity": entity, "name": name, "reinit": "create_new", **settings}
        self._run: Any = None
        self._own = False

    @property
    def run(self) -> Any:
        """The run of the last compile, as ``wandb.init`` gave it; None before the first."""
        return self._run

    def _open(self, planned: Notes) -> None:
        # Two compiles in one run would mix.
        self._own = self._wandb.run is None or self._wandb.run.summary.get("state") in ("ended", "compiled")
        self._run = self._wandb.init(**self._settings) if self._own else self._wandb.run
        if self._run.summary.get("error") is not None:
            del self._run.summary["error"]  # Of an earlier try, which this one takes up again.
        for prefix in [""] + [f"{self._key(target)}/" for target in self._targets]:
            for group, axis in _AXES.items():
                self._run.define_metric(f"{prefix}{group}/*", step_metric=f"{prefix}{group}/{axis}")

    def _send(self, entries: Sequence[Entry]) -> None:
        for notes in (entry.notes for entry in entries):
            prefix = f"{self._key(notes.target)}/" if notes.target else ""
            figures = {prefix + name: value for name, value in notes.metrics.items()}
            if notes.params:
                self._run.config.update(dict(notes.params), allow_val_change=True)
            if notes.axis:
                self._run.log(figures)
            else:
                self._run.summary.update(figures)
            self._run.summary.update({f"{prefix}{name}": text for name, text in notes.tags.items()})
            tables = {prefix + name: self._table(rows) for name, rows in notes.tables.items() if rows}
            if tables:
                self._run.log(tables)
            for name, text in notes.texts.items():
                # Not the same artefact, of which the later file would be a version.
                kind = "prompts" if name.endswith(".txt") else name.partition(".")[0]
                self._run.log_artifact(self._artifact(notes.target, kind, {name: text}))

    def _table(self, rows: Sequence[Any]) -> Any:
        return self._wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])

    def _artifact(self, target: str, kind: str, texts: dict[str, str]) -> Any:
        named = f"{self._key(target)}-{kind}" if target else kind
        artifact = self._wandb.Artifact(f"{self._run.id}-{named}", type=f"tp_dspy-{kind}")
        for name, text in texts.items():
            with artifact.new_file(name, encoding="utf-8") as file:
                file.write(text)
        return artifact

    def _attach(self, target: str, folder: Path) -> None:
        artifact = self._artifact(target, "result", {})
        artifact.add_dir(str(folder))
        self._run.log_artifact(artifact)

    def _end(self, status: Status) -> None:
        if self._own and self._run is not None:
            self._own = False
            self._run.finish(exit_code=_EXIT[status])

    def _compile_ended(self) -> None:
        if not self._compiles_one:
            self.close()
