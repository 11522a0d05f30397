"""The example programs: what users copy compiles itself, is measured, saved, and loads again."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import dspy
import pytest

from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, certain, scripted_lm
from programs.medical_qa import NOTES, Corpus, MedicalQA
from tp_dspy import ObjectiveEvaluator, TransferResult
from tp_dspy.lms import specs
from tp_dspy.runs.identity import context_identity

Rule = Callable[[PromptView], Reply | str]


def proposing(prompt: PromptView) -> str:
    return f"<INS>Reply with yes or no only; attempt {len(prompt.text)}.</INS>"


def yes(prompt: PromptView) -> Reply | str:
    """Keeps to the form only where the instruction names it."""
    if "yes or no" in prompt.user:
        return Reply.of(*answer_logprobs("yes", {"yes": 0.7, "no": 0.3}))
    return Reply("It depends.", [("It depends.", -1.0, {})])


def with_facts(prompt: PromptView) -> Reply | str:
    return yes(prompt) if "Facts:" in prompt.user else "There was a contract."


def with_reasons(prompt: PromptView) -> str:
    return "Reasoning: It follows.\nAnswer: B\nConfidence: 0.8" if "attempt" in prompt.user else "B"


def with_notes(prompt: PromptView) -> Reply | str:
    assert "Notes:" in prompt.user or "Question:" in prompt.user
    return yes(prompt)


PROGRAMS: dict[str, tuple[Rule, set[str]]] = {
    "financial_qa": (yes, {"judge"}),
    "legal_qa": (with_facts, {"extract", "decide"}),
    "medical_qa": (with_notes, {"answer"}),
    "reasoning_qa": (with_reasons, {"reason.predict"}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_compiles_measures_and_saves_itself(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rule, predictors = PROGRAMS[name]
    lms = {"scorer": scripted_lm(rule), "reference": scripted_lm(proposing)}
    monkeypatch.setattr(specs, "resolve_lm", lambda spec, role, max_tokens=None: lms[role])
    monkeypatch.setattr(sys, "argv", [name, "--examples", "6", "--test-limit", "20", "--out", str(tmp_path)])
    module = importlib.import_module(f"programs.{name}")
    module.main()
    out = capsys.readouterr().out
    assert "On 20 held-out examples" in out and "compiled against as written, paired" in out
    result = TransferResult.load(tmp_path / "result.json")
    assert set(result.winner.instructions) == predictors
    assert result.winner.score > result.original.score, "the scripted LM keeps to the form once it is told"
    kind = next(v for n, v in vars(module).items() if n.endswith("QA") and n in module.__all__)
    again = kind()
    again.load(tmp_path / "program.json")
    found = {n: p.signature.instructions for n, p in again.named_predictors()}
    assert found == result.winner.instructions
    for predictor, text in found.items():
        assert f"{predictor}: {text}" in out


def test_a_program_tells_a_mistake_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["financial_qa", "--target", "starter/finance", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="DataError: There is no starter set 'finance'"):
        importlib.import_module("programs.financial_qa").main()


# Retrieval.


def test_retrieval_finds_what_shares_words_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Aspirin thins the blood.\n\nInsulin lowers glucose.\n\n\n")
    (tmp_path / "b.txt").write_text("The aorta leaves the heart.")
    corpus = Corpus.of_files([tmp_path / "a.txt", tmp_path / "b.txt"])
    assert len(corpus.passages) == 3
    assert corpus.best("Does insulin raise glucose?", 2) == ["Insulin lowers glucose."]
    assert corpus.best("Who wrote Hamlet?", 2) == []


def test_the_notes_reach_the_prompt_and_come_back() -> None:
    lm = scripted_lm(lambda prompt: chat("answer", "no"))
    with dspy.context(lm=lm):
        prediction = MedicalQA()(question="Do antibiotics act against viruses?")
    assert prediction.answer == "no"
    assert prediction.notes[0] == NOTES[2]
    assert NOTES[2] in lm.scripted.log[0].prompt.text


def test_copies_share_the_corpus_and_another_corpus_is_another_run() -> None:
    program = MedicalQA()
    assert copy.deepcopy(program).corpus is program.corpus
    objective, lm = ObjectiveEvaluator(), scripted_lm(yes)
    same, other = MedicalQA(), MedicalQA(Corpus([*NOTES, "Zinc is a trace element."]))
    identities = [context_identity(one, objective, lm) for one in (program, same, other)]
    assert identities[0] == identities[1] != identities[2]


def test_the_two_steps_of_the_legal_program_are_both_asked() -> None:
    from programs.legal_qa import LegalQA

    lm = scripted_lm(facts_then_answer)
    with dspy.context(lm=lm):
        prediction = LegalQA()(question="Is it hearsay?")
    assert prediction.facts == "It was said in court." and prediction.answer == "No"
    assert "It was said in court." in lm.scripted.log[1].prompt.text


def facts_then_answer(prompt: PromptView) -> Reply:
    asked_for_answer = "[[ ## answer ## ]]" in prompt.text
    return chat("answer", "No") if asked_for_answer else chat("facts", "It was said in court.")


def chat(field: str, text: str) -> Reply:
    """A reply in ChatAdapter's form."""
    return Reply.of(*certain(f"[[ ## {field} ## ]]\n{text}\n\n[[ ## completed ## ]]"))
