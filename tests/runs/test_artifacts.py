"""What is saved can be read again; what cannot be read says why; and no file holds a key."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from tp_dspy.errors import ArtifactError
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate
from tp_dspy.optimization.evidence import Belief
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.optimization.reference import Proposal
from tp_dspy.runs import artifacts
from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.runs.records import CandidateRecord, PhaseRecord, TaskRecord
from tp_dspy.runs.source_prompts import SourcePrompts
from tp_dspy.scoring.outcomes import Usage
from tp_dspy.scoring.set_objective import Metrics

NAN = float("nan")
METRICS = Metrics(3, 1, 1.0, 1 / 3, 0.1, NAN, NAN, NAN, 0.2, 0.7, 2 / 3, 0.05, {"own": 0.3})
TEXT = "Antworte «nur» mit A.\n日本語 😀 \u2028 </script>"
OWN = ScoredCandidate(Candidate({"self": "Answer."}), NAN, {})
PRIOR = Belief(0.4, 0.1)
BEST = ScoredCandidate(Candidate({"self": TEXT}, "source", PRIOR), 0.7, {"law": METRICS}, 2, Belief(0.6, 0.03))
PHASE = PhaseRecord.of(
    PhaseResult(
        ranked=(BEST, OWN),
        history=(OWN, BEST),
        dropped=(OWN.candidate,),
        proposals=(Proposal("", "", "self", "it is empty"), Proposal(TEXT, TEXT, "self", None, BEST.candidate)),
        stopped="all rounds done",
        scorer_usage=Usage(10, 2, 100, 50, None),
        reference_usage=Usage(3, 0, 30, 20, 0.01),
        interaction=0.04,
    )
)


def test_a_phase_says_what_the_replies_of_the_reference_lm_were_good_for() -> None:
    own = ScoredCandidate(Candidate({"self": "Answer."}), 0.5, {})
    texts = {"better": 0.6, "as good": 0.5, "worse": 0.4, "lucky, but dropped": 0.9, "never scored": NAN}
    made = {
        text: ScoredCandidate(own.candidate.with_instruction("self", text), score, {}) for text, score in texts.items()
    }
    # Better than its parent, which is a proposal too; and one without a parent, which is no proposal.
    child = ScoredCandidate(made["worse"].candidate.with_instruction("self", "better again"), 0.45, {})
    general = ScoredCandidate(Candidate({"self": "Be brief."}, "general"), 0.95, {})
    entries = [*made.values(), child]
    phase = PhaseRecord.of(
        PhaseResult(
            ranked=(own,),
            history=(own, general, *entries),
            dropped=(made["lucky, but dropped"].candidate,),
            proposals=(
                *(Proposal("", "", "self", None, entry.candidate) for entry in entries),
                Proposal("", "", "self", "it is empty"),
            ),
            stopped="all rounds done",
            scorer_usage=Usage(),
            reference_usage=Usage(),
            interaction=0.0,
        )
    )
    assert phase.proposal_yield == (7, 6, 2)
    assert str(phase.proposal_yield) == "6 of 7 proposals usable, 2 better than their parent"


def sources(**settings: Any) -> SourcePrompts:
    return SourcePrompts(
        prompts=[CandidateRecord.of(BEST)],
        original=CandidateRecord.of(OWN),
        tasks=[TaskRecord(name="law", domain=None, description="", train=3, validation=0)],
        phase=PHASE,
        settings=settings,
    )


def result(**settings: Any) -> TransferResult:
    return TransferResult(
        winner=CandidateRecord.of(BEST),
        original=CandidateRecord.of(OWN),
        source=PHASE,
        target=PHASE,
        stopped="all rounds done",
        seconds=1.5,
        settings=settings,
    )


@pytest.mark.parametrize("make", [sources, result])
def test_what_is_saved_comes_back_nan_and_unicode_included(make: Callable[..., Any], tmp_path: Path) -> None:
    saved = make(rounds=2, weights={"ifr": 0.2})
    path = saved.save(tmp_path / "new" / "folder" / "é.json")
    loaded = type(saved).load(str(path))
    assert loaded.model_dump_json() == saved.model_dump_json()
    assert loaded.created == saved.created and loaded.versions["tp_dspy"] and loaded.settings["weights"] == {"ifr": 0.2}
    text = path.read_text(encoding="utf-8")
    assert "日本語" in text and "NaN" in text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_candidate_comes_back_as_the_same_candidate(tmp_path: Path) -> None:
    loaded = SourcePrompts.load(sources().save(tmp_path / "s.json"))
    back = loaded.prompts[0].scored()
    assert back.candidate == BEST.candidate and back.candidate.id == loaded.prompts[0].id
    assert (back.candidate.origin, back.candidate.prior, back.round, back.score) == ("source", PRIOR, 2, 0.7)
    assert back.expected == BEST.expected
    law = back.by_task["law"]
    assert isinstance(law, Metrics) and law.accuracy == 1 / 3 and math.isnan(law.auroc)
    assert math.isnan(loaded.original.score) and loaded.original.by_task == {}


def test_usage_is_the_sum_over_the_phases_and_an_unknown_price_stays_unknown() -> None:
    assert result().scorer_usage == Usage(20, 4, 200, 100, None)
    assert result().reference_usage == Usage(6, 0, 60, 40, 0.02)
    alone = result().model_copy(update={"source": None, "target": None})
    assert alone.scorer_usage == Usage()


def spoilt(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw.update(version=2), r"version 2 .* reads version 1.*Update tp_dspy"),
        (lambda raw: raw.pop("version"), "version None"),
        (lambda raw: raw.update(version="1"), "version '1'"),
        (lambda raw: raw.update(format="gepa.state"), "format 'gepa.state'.*SourcePrompts reads"),
        (lambda raw: raw.pop("format"), "format None"),
        (lambda raw: raw.pop("phase"), "damaged: phase: Field required"),
        (lambda raw: raw.update(note="more"), "damaged: note: "),
        (lambda raw: raw["prompts"][0].update(note="more"), "damaged: prompts.0.note"),
        (lambda raw: raw["phase"]["scorer_usage"].update(note=1), "damaged: phase.scorer_usage.note"),
        (lambda raw: raw["prompts"][0].update(score="good"), "damaged: prompts.0.score"),
        (lambda raw: raw["prompts"][0].update(instructions="Answer."), "damaged: prompts.0.instructions"),
        (lambda raw: raw["prompts"][0].update(origin="heaven"), "damaged: prompts.0.origin"),
        (lambda raw: raw.update(prompts=[]), "damaged: prompts: "),
    ],
)
def test_a_file_that_is_not_what_it_should_be_says_what_is_wrong(change: Any, says: str, tmp_path: Path) -> None:
    path = spoilt(sources().save(tmp_path / "s.json"), change)
    with pytest.raises(ArtifactError, match=says) as caught:
        SourcePrompts.load(path)
    assert "s.json" in str(caught.value) and "http" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.999])
def test_a_truncated_file_is_not_json(share: float, tmp_path: Path) -> None:
    path = result().save(tmp_path / "r.json")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ArtifactError, match=r"r\.json is not JSON .*TransferResult\.save"):
        TransferResult.load(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00 pickle", b"[" * 200_000, b"\x80\x04\x95."])
def test_neither_can_other_files_be_read(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is not JSON"):
        TransferResult.load(path)


@pytest.mark.parametrize("content", ["[]", "null", '"text"', "{}"])
def test_json_of_another_kind_has_another_format(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=r"format None; TransferResult reads 'tp_dspy\.transfer_result'"):
        TransferResult.load(path)


def test_one_artifact_is_not_taken_for_the_other_and_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"'tp_dspy\.source_prompts'; TransferResult reads"):
        TransferResult.load(sources().save(tmp_path / "s.json"))
    with pytest.raises(FileNotFoundError):
        TransferResult.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("fault", [OSError("disk full"), KeyboardInterrupt()])
def test_a_crash_in_the_middle_keeps_the_old_file(
    fault: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = result(run="old").save(tmp_path / "r.json")

    def fails(descriptor: int) -> None:
        raise fault

    monkeypatch.setattr(artifacts.os, "fsync", fails)
    with pytest.raises(type(fault)):
        result(run="new").save(path)
    assert TransferResult.load(path).settings == {"run": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]
    monkeypatch.undo()
    result(run="new").save(path)
    assert TransferResult.load(path).settings == {"run": "new"}


def test_a_saved_file_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    other = tmp_path / "plain"
    other.write_text("")
    mode = sources().save(tmp_path / "s.json").stat().st_mode
    assert mode == other.stat().st_mode and os.access(tmp_path / "s.json", os.R_OK)


def test_no_file_holds_a_key(tmp_path: Path) -> None:
    lm = dspy.LM("openai/big", api_key="sk-secret", api_base="https://example.org")
    held = {
        "reference_lm": lm,
        "lms": [lm, {"api_key": "sk-secret", "max_tokens": 100}],
        "headers": {"Authorization": "Bearer sk-secret", "X-Api-Key": "sk-secret"},
        "client": {"openai_api_key": "sk-secret", "azure_ad_token": "sk-secret", "token": "sk-secret"},
        "racing": object(),
    }
    for artifact in (sources(**held), result(**held)):
        saved = artifact.save(tmp_path / "a.json").read_text(encoding="utf-8")
        assert "sk-secret" not in saved and "sk-secret" not in repr(artifact)
    settings = TransferResult.load(tmp_path / "a.json").settings
    assert settings["reference_lm"] == "openai/big" and settings["lms"] == ["openai/big", {"max_tokens": 100}]


def test_a_checkout_that_is_not_installed_can_save_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(package: str) -> str:
        raise artifacts.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(artifacts.importlib.metadata, "version", unknown)
    assert result().versions["tp_dspy"] == "unknown"
