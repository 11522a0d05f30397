"""When trackers log, what they attach, and that a tracker which fails does not end a compile that was paid for."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dspy
import pytest

from tests.trackers.conftest import Lab
from tp_dspy import Event, TransferResult
from tp_dspy.errors import ConfigurationError, MissingDependencyError
from tp_dspy.optimization.events import Planned, Spending
from tp_dspy.runs.events import Compiled, Failed, Measured
from tp_dspy.trackers import MLflowTracker, WandbTracker
from tp_dspy.trackers.notes import Notes
from tp_dspy.trackers.tracker import Entry, Status, Tracker

Around = Planned | Spending | Compiled | Failed | Measured


class Noted(Tracker):
    """Keeps in memory what it is to log; fails at the sends of the given numbers, the first of them is 0."""

    _name = "the notebook"

    def __init__(self, fails: Sequence[int] = (), refuses: bool = False, **kept: Any) -> None:
        super().__init__(**{"log_program": True, "log_report": True, **kept})
        self.fails, self.refuses = fails, refuses
        self.sends = 0
        self.entries: list[Entry] = []
        self.files: dict[str, dict[str, bytes]] = {}
        self.ended: list[Status] = []

    def _open(self, planned: Notes) -> None:
        if self.refuses:
            raise OSError("no such server")

    def _send(self, entries: Sequence[Entry]) -> None:
        self.sends += 1
        if self.sends - 1 in self.fails:
            raise OSError("the disk is full")
        self.entries += entries

    def _attach(self, target: str, folder: Path) -> None:
        self.files.setdefault(target, {}).update({path.name: path.read_bytes() for path in folder.iterdir()})

    def _end(self, status: Status) -> None:
        self.ended.append(status)

    def course(self, metric: str) -> list[tuple[int, float]]:
        return [(e.notes.step, e.notes.metrics[metric]) for e in self.entries if metric in e.notes.metrics]


@pytest.fixture
def warnings_of_trackers(caplog: pytest.LogCaptureFixture) -> Any:
    def said() -> list[str]:
        return [r.message for r in caplog.records if r.name.startswith("tp_dspy.trackers") and r.levelno >= 30]

    caplog.set_level(logging.WARNING)
    return said


def test_a_compile_is_logged_once_a_round_with_its_files(lab: Lab, page: Any, warnings_of_trackers: Any) -> None:
    noted = Noted()
    result: TransferResult = lab.compile(noted).detailed_results
    # The plan; three rounds and the end of each phase; what was spent; the result.
    assert noted.sends == 1 + 2 * (3 + 1) + 1 + 1 and not warnings_of_trackers()
    assert [step for step, _ in noted.course("source/best_score")] == [0, 1, 2]
    best = [score for _, score in noted.course("source/best_score")]
    assert best == sorted(best) and best[-1] == max(
        r.score for r in result.source.history if r.id not in dropped(result)
    )
    assert noted.course("spent/scorer_calls")[-1][1] == result.scorer_usage.calls
    assert noted.course("final/score") == [(0, result.winner.score)]
    assert set(noted.files[""]) == {"result.json", "program.json", "prompts.txt", "report.html"}
    assert noted.files[""]["report.html"] == b"<html>report</html>"


def dropped(result: TransferResult) -> set[str]:
    return set(result.source.dropped)


def test_what_is_attached_is_the_result_and_the_program(lab: Lab, page: Any, tmp_path: Path) -> None:
    noted = Noted()
    compiled = lab.compile(noted)
    for name, data in noted.files[""].items():
        (tmp_path / name).write_bytes(data)
    assert TransferResult.load(tmp_path / "result.json").winner == compiled.detailed_results.winner
    loaded = dspy.Predict("question -> answer")
    loaded.load(tmp_path / "program.json")
    assert loaded.signature.instructions == compiled.signature.instructions


def test_nothing_is_attached_that_was_not_wanted(lab: Lab, page: list[Path]) -> None:
    noted = Noted(log_program=False, log_report=False)
    lab.compile(noted)
    assert set(noted.files[""]) == {"result.json", "prompts.txt"} and page == []


def test_without_a_report_the_other_files_are_still_attached(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, warnings_of_trackers: Any
) -> None:
    def broken(result: Any, path: Path) -> None:
        raise ValueError("no plot")

    monkeypatch.setattr("tp_dspy.trackers.tracker._write_page", broken)
    noted = Noted()
    lab.compile(noted)
    assert set(noted.files[""]) == {"result.json", "program.json", "prompts.txt"}
    assert warnings_of_trackers() == ["the HTML report is not logged to the notebook: ValueError: no plot"]


def test_held_out_figures_come_after_the_compile_and_end_the_run(lab: Lab, page: Any) -> None:
    noted = Noted()
    report = lab.experiment(noted)
    (measured,) = noted.course("held_out/target/score")
    assert measured[1] == report.held_out.evaluations["target"].metrics.score and noted.ended == ["finished"]
    assert b'"held_out":{' in noted.files[""]["result.json"].replace(b": ", b":").replace(b"\n", b"")


def test_of_several_targets_each_has_its_figures_and_files(lab: Lab, page: Any) -> None:
    prompts, noted = lab.construct(), Noted()
    transfers = lab.transfer(prompts, ["a/b", "a:b"], noted)
    assert set(noted.files) == {"a/b", "a:b"}
    for index, (name, result) in enumerate(transfers.results.items()):
        (own,) = [e.notes for e in noted.entries if e.notes.target == name and "final/score" in e.notes.metrics]
        assert own.metrics["final/score"] == result.winner.score
        assert noted.course(f"targets/a_b-{index}/score") == [(0, result.winner.score)]


def test_a_tracker_that_fails_for_a_while_has_everything_in_the_end(
    lab: Lab, page: Any, warnings_of_trackers: Any
) -> None:
    whole, noted = Noted(), Noted(fails=[2])
    lab.compile(whole, noted)
    assert [e.notes for e in noted.entries] == [e.notes for e in whole.entries] and noted.files == whole.files
    # The plan, a round, the round that failed, and all the rest at once: a server that is gone is not asked each time.
    assert noted.sends == 4
    (warning,) = warnings_of_trackers()
    assert "the notebook fails (OSError: the disk is full). The compile goes on" in warning


def test_a_tracker_that_fails_for_good_does_not_end_the_compile(lab: Lab, page: Any, warnings_of_trackers: Any) -> None:
    noted = Noted(fails=range(1, 100))
    compiled = lab.compile(noted)
    assert compiled.detailed_results.stopped == "all rounds done" and [e.notes.step for e in noted.entries] == [0]
    first, last = warnings_of_trackers()
    assert "The compile goes on" in first and "Not all of this compile is logged to the notebook" in last
    assert "the disk is full" in last and "detailed_results" in last


def test_a_tracker_that_cannot_begin_costs_no_call(lab: Lab) -> None:
    with pytest.raises(ConfigurationError, match=r"the notebook cannot be logged to \(OSError: no such server\)"):
        lab.compile(Noted(refuses=True))
    assert lab.calls == 0


def breaks(error: BaseException, *kinds: str) -> Any:
    """Listen, and raise an error at events of these kinds."""

    def hear(event: Any) -> None:
        if event.kind in kinds:
            raise error

    return hear


def test_a_compile_that_is_broken_off_ends_its_run_as_such(lab: Lab, page: Any) -> None:
    noted = Noted()
    # Of two interruptions the first lets a phase end in good order, the second is final.
    for error, kinds in ((OSError("power"), ["round"]), (KeyboardInterrupt(), ["round", "end"])):
        with pytest.raises(type(error)):
            lab.compile(noted, breaks(error, *kinds))
    assert noted.ended == ["failed", "killed"]
    errors = [e.notes.tags["error"] for e in noted.entries if "error" in e.notes.tags]
    assert errors == ["OSError: power", "KeyboardInterrupt: "]
    lab.compile(noted)
    assert noted.entries[-1].notes.tags["state"] == "compiled"


def test_an_interrupted_compile_is_logged_with_the_best_so_far(lab: Lab, page: Any) -> None:
    noted = Noted()
    compiled = lab.compile(noted, breaks(KeyboardInterrupt(), "round"))
    assert compiled.detailed_results.stopped == noted.entries[-1].notes.tags["stopped"] == "interrupted"
    assert noted.course("final/score") == [(0, compiled.detailed_results.winner.score)]


def test_a_second_compile_ends_the_run_of_the_first(lab: Lab, page: Any) -> None:
    noted = Noted()
    lab.compile(noted)
    assert noted.ended == []
    lab.compile(noted)
    assert noted.ended == ["finished"]
    noted.close()
    noted.close()
    assert noted.ended == ["finished", "finished"]


def test_a_resumed_compile_says_so(lab: Lab, page: Any, tmp_path: Path) -> None:
    noted = Noted()
    for _ in range(2):
        lab.compile(noted, run_dir=tmp_path)
    (_, first), (_, second) = noted.course("resumed_outcomes")
    assert first == 0 and second > 50


@pytest.mark.parametrize(("tracker", "package"), [(MLflowTracker, "mlflow"), (WandbTracker, "wandb")])
def test_a_missing_package_is_told_when_the_tracker_is_made(
    tracker: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf'pip install "tp_dspy\[{package}\]"'):
        tracker()


@pytest.mark.parametrize(("tracker", "package"), [(MLflowTracker, "mlflow"), (WandbTracker, "wandb")])
def test_a_folder_of_the_same_name_is_no_package(
    tracker: Any, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Runs of Weights & Biases that are offline leave a folder `wandb` behind where they began.
    (tmp_path / package).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(MissingDependencyError, match=rf'pip install "tp_dspy\[{package}\]"'):
        tracker()


def test_what_ends_a_compile_is_told_last(lab: Lab) -> None:
    def told(act: Any) -> list[str]:
        heard: list[Event] = []
        act(heard.append)
        return [f"{event.kind} {event.phase}".strip() for event in heard if isinstance(event, Around)]

    assert told(lab.compile)[-2:] == ["spent", "compiled target"]
    assert told(lab.experiment)[-3:] == ["spent", "compiled target", "measured test"]
    prompts = lab.construct()
    several = told(lambda hear: lab.transfer(prompts, ["a", "b"], hear))
    ends = [kind for kind in several if not kind.startswith("spent target")]
    assert ends == ["plan", "compiled target a", "compiled target b", "spent"]

    def fails(hear: Any) -> None:
        with pytest.raises(OSError, match="power"):
            lab.compile(hear, breaks(OSError("power"), "round"))

    assert told(fails)[-1] == "failed"


def test_trackers_import_nothing_that_they_log_to() -> None:
    code = """if True:
        import sys, dspy
        before = set(sys.modules)
        import tp_dspy.trackers
        heavy = {"mlflow", "wandb", "opentelemetry", "matplotlib", "jinja2", "pandas"}
        sys.exit(", ".join(sorted(heavy & (set(sys.modules) - before))) or None)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
