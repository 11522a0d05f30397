"""While a compile goes on, its folder says what it has found so far; and the listeners are told how it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

from programs.benchmarks.transfer import Setting, optimiser, tasks_of
from programs.benchmarks.worlds import DirectStudent, World
from tp_dspy import InstructionAdapter, TransferPrompting, TransferResult
from tp_dspy.optimization.events import Event, RoundEnded
from tp_dspy.runs.delivery import deliver
from tp_dspy.runs.events import Compiled, Failed
from tp_dspy.runs.snapshots import RUNNING, SNAPSHOT

SETTING = Setting(3, 8, 8, 2, 0.5, 0.0, True)
STUDENT = dspy.Predict(dspy.Signature("question -> answer", "Answer the question."))


def teleprompter(world: World, folder: Path | None, listener: Any) -> TransferPrompting:
    made = optimiser(world, SETTING, rounds=2, listeners=[listener])
    made.run_dir = folder
    return made


def test_what_was_found_so_far_is_in_the_folder_after_each_round(tmp_path: Path) -> None:
    seen: list[TransferResult] = []
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if event.kind in ("proposals", "selection"):
            seen.append(TransferResult.load(tmp_path / SNAPSHOT))

    world = World(3)
    sources, target = tasks_of(world, SETTING)
    with dspy.context(adapter=InstructionAdapter()):
        tp = teleprompter(world, tmp_path, listen)
        compiled = tp.compile(STUDENT, trainset=target.train, valset=target.validation, source_tasks=sources)
    rounds = [event for event in events if isinstance(event, RoundEnded)]
    assert [(event.phase, event.round) for event in rounds] == [(p, r) for p in ("source", "target") for r in range(3)]
    assert len(seen) == 6 and {found.stopped for found in seen} == {RUNNING}
    assert [found.target is None for found in seen] == [True] * 3 + [False] * 3
    assert [len(found.source.history) for found in seen[:3]] == [len(e.so_far.history) for e in rounds[:3]]
    final = compiled.detailed_results
    last = seen[-1].model_dump_json(include={"source": True, "target": {"history"}})
    assert last == final.model_dump_json(include={"source": True, "target": {"history"}})
    assert seen[-1].settings == final.settings and seen[-1].original.instructions == final.original.instructions
    assert not (tmp_path / SNAPSHOT).exists() and (tmp_path / "result.json").exists(), "the last word is the result"
    assert isinstance(events[-1], Compiled) and events[-1].result is final and events[-1].program is compiled


def test_many_targets_have_a_file_each_and_source_prompts_leave_none(tmp_path: Path) -> None:
    found: list[str] = []

    def listen(event: Event) -> None:
        found.extend(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob(f"**/{SNAPSHOT}"))

    world = World(3)
    sources, target = tasks_of(world, SETTING)
    with dspy.context(adapter=InstructionAdapter()):
        tp = teleprompter(world, tmp_path, listen)
        prompts = tp.construct_source_prompts(STUDENT, source_tasks=sources)
        assert set(found) == {SNAPSHOT} and not (tmp_path / SNAPSHOT).exists()
        found.clear()
        tp.transfer_to(STUDENT, {"a": target, "b/c": target}, source_prompts=prompts)
    assert set(found) == {f"a/{SNAPSHOT}", f"b_c/{SNAPSHOT}"} and not list(tmp_path.glob(f"**/{SNAPSHOT}"))


def test_a_compile_that_breaks_off_says_so_and_keeps_what_it_had(tmp_path: Path) -> None:
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if event.kind == "round" and event.phase == "target":
            raise OSError("the disk is full")

    world = World(3)
    sources, target = tasks_of(world, SETTING)
    with dspy.context(adapter=InstructionAdapter()), pytest.raises(OSError, match="disk is full"):
        teleprompter(world, tmp_path, listen).compile(
            STUDENT, trainset=target.train, valset=target.validation, source_tasks=sources
        )
    assert isinstance(events[-1], Failed) and str(events[-1].error) == "the disk is full"
    kept = TransferResult.load(tmp_path / SNAPSHOT)
    assert kept.stopped == RUNNING and len(kept.source.history) > 1


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(3)
    _, target = tasks_of(world, SETTING)
    with dspy.context(adapter=InstructionAdapter()):
        teleprompter(world, None, lambda event: None).compile(STUDENT, trainset=target.train)
    assert not list(tmp_path.iterdir())


class Deaf:
    """A listener that raises at the end."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.heard.append(event)
        if isinstance(event, Compiled):
            raise OSError("the tracker's server is gone")


def test_a_listener_that_fails_at_the_end_does_not_lose_the_program(caplog: pytest.LogCaptureFixture) -> None:
    world = World(3)
    _, target = tasks_of(world, SETTING)
    deaf, others = Deaf(), list[Event]()
    tp = optimiser(world, SETTING, rounds=1, listeners=[deaf, others.append])
    with dspy.context(adapter=InstructionAdapter()):
        compiled = tp.compile(STUDENT, trainset=target.train)
    assert compiled.detailed_results.winner.instructions["self"] == compiled.signature.instructions
    assert isinstance(deaf.heard[-1], Compiled) and isinstance(others[-1], Compiled)
    assert "server is gone" in caplog.text and not any(isinstance(event, Failed) for event in others)


def test_a_result_that_cannot_be_saved_is_a_failure_to_all_who_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError("no space left on device")

    world = World(3)
    sources, target = tasks_of(world, SETTING)
    events: list[Event] = []
    tp = optimiser(world, SETTING, rounds=1, listeners=[events.append])
    tp.run_dir = tmp_path
    with dspy.context(adapter=InstructionAdapter()):
        monkeypatch.setattr("tp_dspy.runs.delivery.save_program", full)
        with pytest.raises(OSError, match="no space"):
            tp.compile(STUDENT, trainset=target.train)
        assert isinstance(events[-1], Failed)
        assert not any(isinstance(event, Compiled) for event in events)
        monkeypatch.setattr("tp_dspy.runs.source_prompts.SourcePrompts.save", full)
        with pytest.raises(OSError, match="no space"):
            tp.construct_source_prompts(STUDENT, source_tasks=sources)
        assert isinstance(events[-1], Failed)


def test_an_earlier_result_with_another_winner_is_kept(tmp_path: Path) -> None:
    world = World(3)
    _, target = tasks_of(world, SETTING)

    def compile(rounds: int, **more: Any) -> TransferResult:
        tp = optimiser(world, SETTING, rounds=rounds, **more)
        tp.run_dir = tmp_path
        with dspy.context(adapter=InstructionAdapter()):
            found: TransferResult = tp.compile(STUDENT, trainset=target.train).detailed_results
        return found

    def interrupt(event: Event) -> None:
        if event.kind == "phase":
            raise KeyboardInterrupt

    first = compile(2)
    assert first.winner.id != first.original.id
    compile(2)
    assert not list(tmp_path.glob("earlier-*"))  # the same again
    assert compile(3, listeners=[interrupt]).stopped == "interrupted"
    assert TransferResult.load(tmp_path / "earlier-result.json").winner.id == first.winner.id
    assert dspy.Predict("question -> answer").load(tmp_path / "earlier-program.json") is None
    assert TransferResult.load(tmp_path / "result.json").winner.id == first.original.id
    # One that cannot be read is not ours to lose either; nor is the first of them.
    (tmp_path / "result.json").write_text("{}")
    compile(1)
    assert (tmp_path / "earlier-2-result.json").read_text() == "{}"
    assert TransferResult.load(tmp_path / "earlier-result.json").winner.id == first.winner.id


@pytest.mark.parametrize("stopped", ["interrupted", "stop file stop found", "all rounds done"])
def test_what_was_measured_is_not_lost_to_what_was_broken_off(tmp_path: Path, stopped: str) -> None:
    world = World(3)
    _, target = tasks_of(world, SETTING)
    tp = optimiser(world, SETTING, rounds=0)
    with dspy.context(adapter=InstructionAdapter()):
        compiled = tp.compile(STUDENT, trainset=target.train)
        programs = {"original": STUDENT, "target": compiled}
        held_out = tp.objective.evaluate_all(programs, target.train, lm=tp.scorer.lm, verbose=False)
    found = compiled.detailed_results
    found.model_copy(update={"stopped": stopped}).with_held_out(held_out).save(tmp_path / "result.json")
    deliver(found.model_copy(update={"stopped": "interrupted"}), STUDENT, tmp_path, "target", ())
    assert TransferResult.load(tmp_path / "earlier-result.json").held_out is not None
    assert TransferResult.load(tmp_path / "result.json").held_out is None


def test_half_a_character_in_the_data_does_not_lose_a_paid_result(tmp_path: Path) -> None:
    world = World(3)
    _, target = tasks_of(world, SETTING)

    class Noted(DirectStudent):
        def forward(self, question: str, note: str = "") -> dspy.Prediction:
            return super().forward(question)

    cut = [dspy.Example(**e.toDict(), note="cut \ud83d").with_inputs("question", "note") for e in target.train]
    tp = optimiser(world, replace(SETTING, engine=False), rounds=1)
    tp.run_dir = tmp_path
    with dspy.context(adapter=InstructionAdapter()):
        tp.compile(Noted(world, "Answer the question."), trainset=cut)
    kept = TransferResult.load(tmp_path / "result.json").selection
    assert kept is not None and {example.inputs["note"] for example in kept.examples} == {"cut ?"}
