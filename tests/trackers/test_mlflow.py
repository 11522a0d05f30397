"""MLflow, with a real store: one tidy run for each compile, alone, in a run of the user's, and beside autologging."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from tests.trackers.conftest import Lab
from tests.trackers.test_tracker import breaks
from tp_dspy import InstructionAdapter, ScorerCalls, SourcePrompts, TransferResult
from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.events import Planned, Spending
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.optimization.stopping import Spent
from tp_dspy.runs.events import Constructed, Failed
from tp_dspy.trackers import MLflowTracker
from tp_dspy.trackers.autolog import patched
from tp_dspy.trackers.portable import portable_lm, portable_program

mlflow: Any = pytest.importorskip("mlflow", reason="mlflow is not installed: uv sync --group trackers")

ROOT = Path(__file__).parents[2]

# One group, so that the database is made once (where pytest-xdist keeps to groups).
pytestmark = [pytest.mark.usefixtures("page"), pytest.mark.xdist_group("mlflow")]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database: seconds to make, so that it is shared."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'store.db'}"


@pytest.fixture(autouse=True)
def store(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty experiment that is the active one; artefacts land in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    mlflow.set_experiment(experiment_id=client.create_experiment(tmp_path.name, str(tmp_path / "artefacts")))
    yield Store(client, client.get_experiment_by_name(tmp_path.name).experiment_id)
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_tracking_uri(before)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)


class Store:
    def __init__(self, client: Any, experiment: str) -> None:
        self.client, self.experiment = client, experiment

    def runs(self, experiment: str | None = None) -> list[Any]:
        """All runs, the oldest first."""
        return list(self.client.search_runs([experiment or self.experiment]))[::-1]

    def files(self, run: Any, folder: str | None = None) -> set[str]:
        return {artefact.path for artefact in self.client.list_artifacts(run.info.run_id, folder)}

    def read(self, run: Any, name: str) -> str:
        return Path(self.client.download_artifacts(run.info.run_id, name)).read_text(encoding="utf-8")

    def course(self, run: Any, metric: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, metric)]

    def model(self, run: Any) -> Any:
        (model,) = [
            m
            for m in self.client.search_logged_models([self.experiment])
            if m.source_run_id == run.info.run_id and m.name == "program"
        ]
        return model


def test_a_compile_is_a_run_of_its_own(lab: Lab, store: Store) -> None:
    tracker = MLflowTracker(run_name="finance")
    result: TransferResult = lab.compile(tracker, stop=[ScorerCalls(500)], seed=7).detailed_results
    (run,) = store.runs()
    assert run.info.run_id == tracker.run_id and mlflow.active_run() is None
    assert (run.info.status, run.info.run_name) == ("FINISHED", "finance") and run.info.end_time >= run.info.start_time
    params = run.data.params
    assert (params["scorer_lm"], params["rounds"], params["seed"]) == ("scripted/s", "2", "7")
    assert float(params["objective.weights.accuracy"]) == pytest.approx(0.4) and params["budget.scorer_calls"] == "500"
    assert [step for step, _ in store.course(run, "source/best_score")] == [0, 1, 2]
    assert [step for step, _ in store.course(run, "target/round")] == [0, 1, 2]
    spent = store.course(run, "spent/scorer_calls")
    assert all(step == value for step, value in spent) and spent == sorted(spent)
    assert spent[-1][1] == result.scorer_usage.calls
    assert run.data.metrics["final/gain"] == pytest.approx(result.winner.score - result.original.score)
    assert run.data.tags["tp_dspy.origin"] == result.winner.origin and run.data.tags["tp_dspy.state"] == "compiled"
    assert run.data.tags["mlflow.source.name"]
    assert store.files(run) == {
        *("result.json", "program.json", "prompts.txt", "report.html", "source_prompts.txt", "source_prompts.json"),
        *("source_rounds.json", "target_rounds.json", "selection.json"),
    }
    assert TransferResult.model_validate_json(store.read(run, "result.json")).winner == result.winner
    table = json.loads(store.read(run, "target_rounds.json"))
    assert table["columns"][0] == "round" and [row[0] for row in table["data"]] == [0, 1, 2]


def test_the_compiled_program_comes_back_as_a_model_of_mlflow(lab: Lab, store: Store) -> None:
    compiled = lab.compile(MLflowTracker())
    (run,) = store.runs()
    model = store.model(run)
    assert model.status == "READY"
    loaded = mlflow.dspy.load_model(model.model_uri)
    assert loaded.signature.instructions == compiled.signature.instructions
    # The adapter that it was compiled with belongs to it; its results, with the texts of examples, do not.
    assert isinstance(dspy.settings.adapter, InstructionAdapter) and not hasattr(loaded, "detailed_results")
    pinned = Path(mlflow.artifacts.download_artifacts(model.model_uri), "requirements.txt").read_text("utf-8").split()
    assert {f"{name}=={importlib.metadata.version(name)}" for name in ("dspy", "tp_dspy")} <= set(pinned)


class Locked(dspy.Module):  # type: ignore[misc]
    """Holds what cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict(dspy.Signature("question -> answer", "Answer."))
        self.words = (word for word in "ab")

    def forward(self, question: str) -> Any:
        return self.predict(question=question)

    def __deepcopy__(self, memo: dict[int, Any]) -> Locked:
        import copy

        copied = Locked()
        copied.predict = copy.deepcopy(self.predict, memo)
        return copied


def test_a_program_that_cannot_be_pickled_is_logged_as_its_state(
    lab: Lab, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    lab.student = Locked()
    lab.compile(MLflowTracker())
    (run,) = store.runs()
    assert "program.json" in store.files(run) and run.info.status == "FINISHED"
    assert not store.client.search_logged_models([store.experiment])
    (said,) = [r.message for r in caplog.records if "the program is not logged to MLflow" in r.message]
    assert "Locked cannot be pickled (TypeError: cannot pickle 'generator' object)" in said


def test_keys_and_past_calls_stay_out_of_the_saved_program() -> None:
    lm = dspy.LM("openai/x", api_key="sk-secret", extra_headers={"Authorization": "Bearer secret"}, temperature=0.5)
    lm.history.append({"messages": "secret"})
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)
    program.detailed_results = "secret"
    import cloudpickle

    assert b"secret" in cloudpickle.dumps(program)  # what it is like without
    portable = portable_program(program)
    assert b"secret" not in cloudpickle.dumps(portable)
    assert (portable.lm.model, portable.lm.kwargs["temperature"]) == ("openai/x", 0.5)
    assert lm.kwargs["api_key"] == "sk-secret" and program.lm is lm
    assert portable_lm(None) is None


def test_held_out_figures_are_added_to_the_run_that_has_ended(lab: Lab, store: Store) -> None:
    report = lab.experiment(MLflowTracker())
    (run,) = store.runs()
    paired = report.held_out.compare("target")
    told = [run.data.metrics[f"held_out/target/difference{end}"] for end in ("", "_low", "_high")]
    assert told == pytest.approx([paired.score, paired.low, paired.high]) and run.info.status == "FINISHED"
    assert TransferResult.model_validate_json(store.read(run, "result.json")).held_out is not None
    assert "held_out.json" in store.files(run)


def test_a_compile_goes_into_the_run_that_is_open_and_leaves_it_open(lab: Lab, store: Store) -> None:
    tracker = MLflowTracker()
    with mlflow.start_run(run_name="mine") as mine:
        lab.compile(tracker)
        assert mlflow.active_run().info.run_id == mine.info.run_id == tracker.run_id
        assert store.client.get_run(tracker.run_id).info.status == "RUNNING"
        lab.compile(tracker)
    first, second = store.runs()
    assert first.info.run_name == "mine" and first.data.tags["tp_dspy.state"] == "compiled"
    # Two winners in one run would mix: the second compile is below the first.
    assert second.data.tags["mlflow.parentRunId"] == first.info.run_id
    assert second.info.status == first.info.status == "FINISHED"


def test_a_run_with_other_values_for_the_same_parameters_is_left_alone(lab: Lab, store: Store) -> None:
    with mlflow.start_run():
        mlflow.log_param("rounds", "many")
        lab.compile(MLflowTracker())
    mine, own = store.runs()
    assert mine.data.params == {"rounds": "many"} and own.data.params["rounds"] == "2"
    assert own.data.tags["mlflow.parentRunId"] == mine.info.run_id


def test_a_compile_that_was_broken_off_goes_on_in_the_same_run(lab: Lab, store: Store, tmp_path: Path) -> None:
    with mlflow.start_run() as mine, pytest.raises(OSError, match="power"):
        lab.compile(MLflowTracker(), breaks(OSError("power"), "end"), run_dir=tmp_path / "run")
    assert store.client.get_run(mine.info.run_id).data.tags["tp_dspy.state"] == "failed"
    with mlflow.start_run(run_id=mine.info.run_id):
        lab.compile(MLflowTracker(), run_dir=tmp_path / "run")
    (run,) = store.runs()
    assert run.data.tags["tp_dspy.state"] == "compiled" and run.data.metrics["resumed_outcomes"] > 50
    assert "tp_dspy.error" not in run.data.tags


def test_a_result_that_could_not_be_delivered_is_a_failed_run(store: Store) -> None:
    tracker = MLflowTracker()
    tracker(Planned("", [PhasePlan("target", 1, 0, 0, 0)], "At most: 1."))
    tracker(Spending("", Spent(1)))
    assert store.runs()[0].info.status == "FINISHED"
    tracker(Failed("", OSError("the disk is full")))
    (run,) = store.runs()
    assert run.info.status == "FAILED" and run.data.tags["tp_dspy.error"] == "OSError: the disk is full"


def test_source_prompts_are_attached_as_the_file_that_can_be_loaded(lab: Lab, store: Store, tmp_path: Path) -> None:
    prompts, tracker = lab.construct(), MLflowTracker()
    tracker(Planned("", [PhasePlan("source", 1, 0, 0, 0)], "At most: 1."))
    tracker(Constructed("source", prompts))
    tracker(Spending("", Spent(1)))
    (run,) = store.runs()
    (tmp_path / "read.json").write_text(store.read(run, "source_prompts.json"), encoding="utf-8")
    # As JSON: one NaN is no other NaN.
    assert SourcePrompts.load(tmp_path / "read.json").model_dump_json() == prompts.model_dump_json()
    assert run.info.status == "FINISHED"


def test_two_compiles_with_one_tracker_are_two_runs(lab: Lab, store: Store) -> None:
    tracker = MLflowTracker(log_program=False)
    scores = [lab.compile(tracker).detailed_results.winner.score for _ in range(2)]
    runs = store.runs()
    assert [run.data.metrics["final/score"] for run in runs] == pytest.approx(scores)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]


def test_of_several_targets_each_has_a_run_below_the_whole(lab: Lab, store: Store) -> None:
    prompts, tracker = lab.construct(MLflowTracker(log_program=False)), MLflowTracker(log_program=False)
    transfers = lab.transfer(prompts, ["a/b", "a:b"], tracker)
    sources, whole, *children = store.runs()
    assert sources.data.tags["tp_dspy.state"] == whole.data.tags["tp_dspy.state"] == "ended"
    assert {"source_prompts.txt", "source_prompts.json"} <= store.files(sources)
    assert [child.info.run_name for child in children] == ["a/b", "a:b"]
    for child, result in zip(children, transfers.results.values(), strict=True):
        assert child.data.tags["mlflow.parentRunId"] == whole.info.run_id == tracker.run_id
        assert child.data.metrics["final/score"] == pytest.approx(result.winner.score)
        assert child.data.params["scorer_lm"] == "scripted/s" and "result.json" in store.files(child)
    assert {run.info.status for run in store.runs()} == {"FINISHED"}
    assert whole.data.metrics["targets/a_b-1/score"] == pytest.approx(transfers.results["a:b"].winner.score)


def test_targets_under_way_at_once_do_not_mix(lab: Lab, store: Store) -> None:
    prompts = lab.construct()
    for at_once in (1, 3):
        again = Lab()  # Its reference LM answers in the order in which it is asked.
        again.transfer(prompts, ["a", "b", "c"], MLflowTracker(log_program=False), at_once=at_once, num_threads=1)
    turns, many = (
        {run.info.run_name: run for run in store.runs() if run.data.tags.get("mlflow.parentRunId") == whole}
        for whole in [run.info.run_id for run in store.runs() if "mlflow.parentRunId" not in run.data.tags]
    )
    for name in ("a", "b", "c"):
        of_time = {"final/seconds"}
        one, other = ({k: v for k, v in run[name].data.metrics.items() if k not in of_time} for run in (turns, many))
        assert one == pytest.approx(other, nan_ok=True) and len(one) > 5
        steps = [store.client.get_metric_history(run[name].info.run_id, "target/candidates") for run in (turns, many)]
        assert [(m.step, m.value) for m in steps[0]] == [(m.step, m.value) for m in steps[1]] != []
    assert {run.info.status for run in store.runs()} == {"FINISHED"}


@pytest.mark.parametrize(("error", "status"), [(OSError("power"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_transfer_that_is_broken_off_leaves_no_run_open(
    error: BaseException, status: str, lab: Lab, store: Store
) -> None:
    prompts = lab.construct()
    with pytest.raises(type(error)):
        lab.transfer(prompts, ["a", "b"], MLflowTracker(log_program=False), breaks(error, "round", "end"))
    assert [run.info.status for run in store.runs()] == [status, status]


def test_another_address_and_experiment_do_not_touch_the_active_ones(lab: Lab, store: Store, tmp_path: Path) -> None:
    there, here = f"sqlite:///{tmp_path / 'other.db'}", mlflow.get_tracking_uri()
    with mlflow.start_run() as mine, mlflow.set_active_model(name="agent") as agent:
        lab.compile(MLflowTracker(experiment="elsewhere", tracking_uri=there))
        assert mlflow.get_active_model_id() == agent.model_id
        assert mlflow.get_tracking_uri() == here and mlflow.active_run().info.run_id == mine.info.run_id
    assert not store.client.get_run(mine.info.run_id).data.params
    other = mlflow.MlflowClient(there)
    experiment = other.get_experiment_by_name("elsewhere").experiment_id
    (run,) = other.search_runs([experiment])
    assert run.data.tags["tp_dspy.state"] == "compiled" and run.info.status == "FINISHED"
    (model,) = other.search_logged_models([experiment])
    assert model.status == "READY" and model.source_run_id == run.info.run_id


def test_a_named_experiment_is_made_and_holds_run_and_model(lab: Lab, store: Store) -> None:
    lab.compile(MLflowTracker(experiment=f"named-{store.experiment}"))
    named = store.client.get_experiment_by_name(f"named-{store.experiment}").experiment_id
    (run,), (model,) = store.runs(named), store.client.search_logged_models([named])
    assert model.source_run_id == run.info.run_id and not store.runs()
    assert mlflow.tracking.fluent._get_experiment_id() == store.experiment


def test_long_values_are_cut_and_many_are_logged_in_parts(store: Store) -> None:
    tracker = MLflowTracker()
    plans = [PhasePlan(f"target {index}", 1, 0, 0, 0) for index in range(150)]
    tracker(Planned("", plans, "w" * 10_000, {"objective": {"match": "x" * 10_000}}))
    tracker(Spending("", Spent(1)))
    (run,) = store.runs()
    assert len(run.data.params) == 301 and run.info.status == "FINISHED"
    assert run.data.params["objective.match"] == "x" * 5999 + "…"
    assert run.data.tags["tp_dspy.plan"] == "w" * 7999 + "…"


def test_a_server_that_cannot_be_reached_costs_no_call(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigurationError, match="MLflow cannot be logged to"):
        lab.compile(MLflowTracker(tracking_uri="http://127.0.0.1:9", experiment="e"))
    assert lab.calls == 0


def test_a_store_that_goes_away_does_not_end_the_compile(
    lab: Lab, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MLflowTracker()

    def deletes(event: Any) -> None:
        if event.kind == "end" and event.phase == "source":
            store.client.delete_run(tracker.run_id)

    result = lab.compile(tracker, deletes).detailed_results
    assert result.stopped == "all rounds done"
    said = [r.message for r in caplog.records if r.name.startswith("tp_dspy.trackers") and r.levelno == logging.WARNING]
    assert len(said) == 2 and "The compile goes on" in said[0] and "Not all of this compile is logged" in said[1]


# DSPy's own autologging.


@pytest.fixture
def autolog() -> Iterator[Any]:
    from mlflow.utils.autologging_utils import revert_patches

    yield mlflow.dspy.autolog
    mlflow.dspy.autolog(disable=True, silent=True)
    revert_patches("dspy")


def test_autologging_works_as_with_any_other_optimiser(lab: Lab, store: Store, autolog: Any) -> None:
    autolog(log_compiles=True, log_evals=True, silent=True)
    compiled = lab.compile()
    (run,) = store.runs()
    assert run.info.status == "FINISHED" and run.data.tags["mlflow.autologging"] == "dspy"
    saved = json.loads(store.read(run, "best_model.json"))
    assert saved["signature"]["instructions"] == compiled.signature.instructions
    assert {"trainset.json", "valset.json"} <= store.files(run)
    params = lab.optimiser().get_params()
    assert params["seed"] == 0 and params["objective"] is lab.objective


def test_evaluations_by_the_objective_are_runs_as_those_of_dspy_evaluate_are(
    lab: Lab, store: Store, autolog: Any
) -> None:
    autolog(log_evals=True, silent=True)
    settings = {"lm": lab.world.scorer_lm(), "adapter": InstructionAdapter()}
    with dspy.context(**settings):
        evaluation = lab.objective.evaluate(lab.student, lab.target.test, num_threads=4)
        dspy.Evaluate(devset=lab.target.test, metric=lab.objective, display_progress=False, num_threads=2)(lab.student)
    ours, theirs = store.runs()
    assert ours.data.metrics["eval"] == round(100 * evaluation.metrics.score, 2)
    for run in (ours, theirs):
        assert run.info.status == "FINISHED" and {"model.json", "result_table.json"} <= store.files(run)
        assert run.data.params["Predict.signature.instructions"] == "Answer."
    table = json.loads(store.read(ours, "result_table.json"))
    assert len(table["data"]) == 10 and {"example_question", "pred_answer", "score"} <= set(table["columns"])


def test_each_example_has_a_whole_trace_although_threads_score_them(lab: Lab, store: Store, autolog: Any) -> None:
    autolog(silent=True)
    with dspy.context(lm=lab.world.scorer_lm(), adapter=InstructionAdapter()):
        plain = lab.objective.evaluate(lab.student, lab.target.test, num_threads=4)
    mlflow.flush_trace_async_logging()
    traces = mlflow.search_traces(locations=[store.experiment], return_type="list")
    assert len(traces) == len(lab.target.test) and plain.metrics.errors == 0
    for trace in traces:
        assert trace.info.state == "OK" and trace.data.spans[0].name == "Predict.forward"
        assert "LM.__call__" in {span.name for span in trace.data.spans}


def test_autologging_and_the_tracker_make_one_tidy_run(lab: Lab, store: Store, autolog: Any) -> None:
    autolog(log_compiles=True, log_evals=True, silent=True)
    report = lab.experiment(MLflowTracker())
    (run,) = store.runs()
    assert run.info.status == "FINISHED" and mlflow.active_run() is None
    assert {"best_model.json", "trainset.json", "result.json", "program.json", "held_out.json"} <= store.files(run)
    assert run.data.params["rounds"] == "2" and run.data.metrics["final/score"] == report.result.winner.score
    assert store.model(run).status == "READY"


def test_a_compile_that_fails_is_a_failed_run_to_both(lab: Lab, store: Store, autolog: Any) -> None:
    autolog(log_compiles=True, silent=True)
    with pytest.raises(OSError, match="power"):
        lab.compile(MLflowTracker(), breaks(OSError("power"), "round"))
    (run,) = store.runs()
    assert run.info.status == "FAILED" and run.data.tags["tp_dspy.error"] == "OSError: power"


@pytest.mark.parametrize("order", ["tp_dspy mlflow on", "mlflow on tp_dspy", "tp_dspy mlflow everything"])
def test_autologging_sees_the_optimiser_whatever_is_imported_first(
    order: str, store: Store, uri: str, tmp_path: Path
) -> None:
    code = """if True:
        import sys
        order, uri, experiment = sys.argv[1:]
        for step in order.split():
            if step == "tp_dspy":
                import tp_dspy
                assert "mlflow" in sys.modules or "tp_dspy.teleprompter" not in sys.modules
            elif step == "mlflow":
                import mlflow
                mlflow.set_tracking_uri(uri)
                mlflow.set_experiment(experiment_id=experiment)
            elif step == "on":
                mlflow.dspy.autolog(log_compiles=True, silent=True)
            else:
                mlflow.autolog(silent=True)
        from tests.trackers.conftest import Lab
        Lab().compile()
        mlflow.flush_trace_async_logging()
    """
    command = [sys.executable, "-c", code, order, uri, store.experiment]
    subprocess.run(command, check=True, capture_output=True, timeout=100, cwd=ROOT)
    # Without the patch there is no run, and a trace for each call of the LMs.
    assert [run.data.tags["mlflow.autologging"] for run in store.runs()] == ["dspy"] * (
        order.split()[-1] != "everything"
    )
    assert mlflow.search_traces(locations=[store.experiment], return_type="list") == []


def test_an_optimiser_that_cannot_be_made_seen_is_told_of(
    autolog: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Late:
        def compile(self) -> None: ...

    patched(Late)
    assert "compile" in vars(Late) and not hasattr(Late.compile, "__wrapped__"), "autologging is off"
    autolog(silent=True)
    patched(Late)
    assert hasattr(Late.compile, "__wrapped__") and not caplog.records
    with monkeypatch.context() as changed:
        changed.delattr(sys.modules["mlflow.dspy.autolog"], "_patched_compile")
        patched(Late)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "before Late was loaded" in said and said.endswith("call mlflow.dspy.autolog() again.")
