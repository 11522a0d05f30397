"""Weights & Biases without a network: what is in the file that `wandb sync` would send, read back."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trackers.conftest import Lab
from tests.trackers.test_tracker import breaks
from tp_dspy import ScorerCalls, SourcePrompts
from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.events import PhaseEnded, Planned, Spending
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.optimization.stopping import Spent
from tp_dspy.runs.events import Constructed
from tp_dspy.trackers import WandbTracker

wandb: Any = pytest.importorskip("wandb", reason="wandb is not installed: uv sync --group trackers")

pytestmark = pytest.mark.usefixtures("page")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    yield
    if wandb.run is not None:
        wandb.finish()


class Offline:
    """What a run has written: settings, history by step, summary, artefacts with their files, and how it ended."""

    def __init__(self, path: Path) -> None:
        from wandb.proto import wandb_internal_pb2 as proto

        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artefacts: dict[str, dict[str, bytes]] = {}
        self.axes: dict[str, str] = {}
        self.exit: int | None = None
        for data in _records(path.read_bytes()):
            record = proto.Record.FromString(data)
            for item in [*record.run.config.update, *record.config.update]:
                self.config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            if record.WhichOneof("record_type") == "history":
                row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                self.history.append(row)
            for item in record.summary.update:
                self.summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
            for item in record.summary.remove:
                self.summary.pop("/".join(item.nested_key) or item.key, None)
            if record.WhichOneof("record_type") == "artifact":
                files = {entry.path: entry.local_path for entry in record.artifact.manifest.contents}
                self.artefacts[record.artifact.name] = {k: Path(v).read_bytes() for k, v in files.items() if v}
            if record.WhichOneof("record_type") == "metric" and record.metric.step_metric:
                self.axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
            if record.WhichOneof("record_type") == "exit":
                self.exit = record.exit.exit_code

    def course(self, metric: str, by: str) -> list[tuple[float, float]]:
        return [(row[by], row[metric]) for row in self.history if metric in row]


def _records(data: bytes) -> Iterator[bytes]:
    """Read LevelDB's log format: blocks of 32 KiB after a header of 7 bytes, records whole or in parts."""
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def runs(folder: Path) -> list[Offline]:
    """All runs that have ended, the oldest first; wandb writes the end of a file after it has said that it is done."""
    for _ in range(100):
        paths = folder.glob("wandb/offline-run-*/*.wandb")
        found = [Offline(path) for path in sorted(paths, key=lambda path: path.parent.name)]
        if found and all(run.exit is not None for run in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"no run has ended in {folder}")


def test_a_compile_is_all_in_the_file_that_is_sent_later(lab: Lab, tmp_path: Path) -> None:
    tracker = WandbTracker("transfer", name="finance", tags=["scripted"], dir=str(tmp_path))
    compiled = lab.compile(tracker, stop=[ScorerCalls(500)])
    result = compiled.detailed_results
    assert wandb.run is None and (tracker.run.project, tracker.run.name) == ("transfer", "finance")
    tracker.close()
    (run,) = runs(tmp_path)
    assert (run.config["scorer_lm"], run.config["rounds"], run.config["budget.scorer_calls"]) == ("scripted/s", 2, 500)
    assert run.config["objective.weights.accuracy"] == pytest.approx(0.4)
    course = run.course("source/best_score", by="source/round")
    assert [round for round, _ in course] == [0, 1, 2] and [score for _, score in course] == sorted(
        s for _, s in course
    )
    assert run.axes["source/*"] == "source/round" and run.axes["spent/*"] == "spent/scorer_calls"
    spent = run.course("spent/tokens", by="spent/scorer_calls")
    assert spent == sorted(spent) and spent[-1][0] == result.scorer_usage.calls
    assert run.summary["final/score"] == result.winner.score and run.summary["origin"] == result.winner.origin
    assert run.summary["selection/target/score"] == result.selection.prompts["target"].metrics.score
    assert run.summary["state"] == "compiled" and run.exit == 0
    (table,) = [row for row in run.history if "target_rounds/_type" in row]
    assert table["target_rounds/_type"] == "table-file" and table["target_rounds/nrows"] == 3
    (files,) = [files for name, files in run.artefacts.items() if name.endswith("-result")]
    assert set(files) == {"result.json", "program.json", "prompts.txt", "report.html"}
    assert json.loads(files["result.json"])["winner"]["id"] == result.winner.id
    assert json.loads(files["program.json"])["signature"]["instructions"] == compiled.signature.instructions
    assert any(name.endswith("-prompts") for name in run.artefacts)


def test_held_out_figures_are_in_the_same_run_which_they_end(lab: Lab, tmp_path: Path) -> None:
    report = lab.experiment(WandbTracker(dir=str(tmp_path)))
    (run,) = runs(tmp_path)
    paired = report.held_out.compare("target")
    told = [run.summary[f"held_out/target/difference{end}"] for end in ("", "_low", "_high")]
    assert told == [paired.score, paired.low, paired.high] and run.exit == 0


def test_several_targets_are_groups_in_one_run_that_ends_with_them(lab: Lab, tmp_path: Path) -> None:
    prompts = lab.construct()
    transfers = lab.transfer(prompts, ["a/b", "a:b"], WandbTracker(dir=str(tmp_path)))
    (run,) = runs(tmp_path)
    for index, result in enumerate(transfers.results.values()):
        assert run.summary[f"a_b-{index}/final/score"] == result.winner.score
        assert [at for at, _ in run.course(f"a_b-{index}/target/best_score", f"a_b-{index}/target/round")] == [0, 1, 2]
    assert run.axes["a_b-1/target/*"] == "a_b-1/target/round" and run.exit == 0
    assert {"a_b-0-result", "a_b-1-result"} <= {name.split("-", 1)[1] for name in run.artefacts}


def test_a_run_that_is_open_is_used_once_and_left_open(lab: Lab, tmp_path: Path) -> None:
    mine = wandb.init(project="mine", dir=str(tmp_path))
    tracker = WandbTracker(dir=str(tmp_path))
    lab.compile(tracker)
    assert tracker.run is mine and wandb.run is mine
    lab.compile(tracker)
    assert tracker.run is not mine and wandb.run is mine
    mine.log({"after": 1})
    mine.finish()
    tracker.close()
    files = runs(tmp_path)
    assert len(files) == 2 and all(run.summary["state"] == "compiled" and run.exit == 0 for run in files)


def test_a_compile_that_was_broken_off_is_a_failed_run(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="power"):
        lab.compile(WandbTracker(dir=str(tmp_path)), breaks(OSError("power"), "round"))
    (run,) = runs(tmp_path)
    assert run.exit == 1 and run.summary["error"] == "OSError: power"


def test_a_second_try_in_the_same_run_takes_back_the_error_of_the_first(lab: Lab, tmp_path: Path) -> None:
    mine = wandb.init(dir=str(tmp_path))
    tracker = WandbTracker(dir=str(tmp_path))
    with pytest.raises(OSError, match="power"):
        lab.compile(tracker, breaks(OSError("power"), "round"))
    assert mine.summary["error"] == "OSError: power"
    lab.compile(tracker)
    mine.finish()
    (run,) = runs(tmp_path)
    assert tracker.run is mine and run.summary["state"] == "compiled" and "error" not in run.summary


def test_source_prompts_are_an_artefact_beside_their_text(lab: Lab, tmp_path: Path) -> None:
    ended: list[PhaseEnded] = []
    prompts = lab.construct(lambda event: ended.append(event) if isinstance(event, PhaseEnded) else None)
    tracker = WandbTracker(dir=str(tmp_path))
    told = [*ended, Constructed("source", prompts), Spending("", Spent(1))]
    for event in [Planned("", [PhasePlan("source", 1, 0, 0, 0)], "At most: 1."), *told]:
        tracker(event)
    (run,) = runs(tmp_path)
    text, file = (run.artefacts[f"{tracker.run.id}-{kind}"] for kind in ("prompts", "source_prompts"))
    assert (set(text), set(file)) == ({"source_prompts.txt"}, {"source_prompts.json"})
    loaded = SourcePrompts.model_validate_json(file["source_prompts.json"])
    assert loaded.model_dump_json() == prompts.model_dump_json()  # as JSON: one NaN is no other NaN


def test_what_wandb_refuses_costs_no_call(lab: Lab) -> None:
    with pytest.raises(ConfigurationError, match="Weights & Biases cannot be logged to"):
        lab.compile(WandbTracker("no/such:project"))
    assert lab.calls == 0


def test_a_run_that_nobody_closed_is_whole_when_the_process_ends(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from tests.trackers.conftest import Lab
        from tp_dspy.trackers import WandbTracker
        Lab().compile(WandbTracker(log_report=False, dir=sys.argv[1]))
    """
    # Not with the service of this process, which would keep the run open for longer.
    env = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, timeout=60, env=env)
    (run,) = runs(tmp_path)
    assert run.exit == 0 and run.summary["state"] == "compiled"
