"""What is known of prices and of tokens before anything is called."""

from __future__ import annotations

import dspy
import pytest

from programs.benchmarks.scripted import scripted_lm
from tp_dspy import InstructionAdapter
from tp_dspy.lms.pricing import price, prompt_tokens


def test_a_model_of_dspys_tables_has_a_price_and_others_have_none() -> None:
    known = price(dspy.LM("openai/gpt-4o-mini", api_key="-"))
    assert known is not None and 0 < known[0] < known[1] < 1e-4
    assert price(dspy.LM("openai/my-own-model", api_base="http://localhost:1/v1", api_key="-")) is None
    assert price(scripted_lm(lambda prompt: "B")) is None


def test_tokens_are_those_of_the_prompt_at_four_characters_each() -> None:
    program = dspy.Predict(dspy.Signature("question -> answer", "Answer " * 40))
    examples = [dspy.Example(question="why " * n, answer="B").with_inputs("question") for n in (10, 20, 30)]
    lm = scripted_lm(lambda prompt: "B")
    with dspy.context(lm=lm, adapter=InstructionAdapter()):
        told = prompt_tokens(program, examples)
        for example in examples:
            program(**example.inputs())
    sent = sum(len(call.prompt.text) for call in lm.scripted.log) / 3 / 4
    assert told == pytest.approx(sent, rel=0.1)
    assert prompt_tokens(program, []) is None


def test_an_adapter_that_cannot_write_a_prompt_costs_no_compile() -> None:
    class Broken(dspy.ChatAdapter):  # type: ignore[misc]
        def format(self, *args: object, **kwargs: object) -> None:
            raise ValueError("no")

    example = dspy.Example(question="why", answer="B").with_inputs("question")
    with dspy.context(adapter=Broken()):
        assert prompt_tokens(dspy.Predict("question -> answer"), [example]) is None


def test_a_provider_that_dspy_has_no_door_to_is_priced_by_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # Not from the network, where this imports it first.
    known = price(dspy.LM("mistral/mistral-small-latest"))
    assert known is not None and 0 < known[0] < known[1] < 1e-4
    assert price(dspy.LM("nosuch/model")) is None
