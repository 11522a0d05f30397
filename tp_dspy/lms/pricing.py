"""What DSPy knows of the price of an LM, and how many tokens a program sends."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import dspy
from dspy.lm15 import LM15Error

__all__ = ["price", "prompt_tokens"]

logger = logging.getLogger(__name__)

# Of English text with the usual tokenizers; it is an estimate in any case.
_CHARACTERS_PER_TOKEN = 4.0


def price(lm: dspy.BaseLM) -> tuple[float, float] | None:
    """Look up what an LM costs, in the tables that DSPy estimates by, without a call.

    Returns:
        US dollars per token sent and per token generated; None where DSPy does not know. A custom engine has no price.
    """
    if not isinstance(getattr(lm, "engine", None), str):
        return None
    from dspy.clients.capabilities import resolve
    from dspy.clients.model_metadata import model_info, rate

    try:
        route = resolve(lm)
    except LM15Error:
        # DSPy has no door of its own to this provider: LiteLLM calls it, and estimates what it costs.
        logger.debug("DSPy cannot resolve %s.", lm.model, exc_info=True)
    else:
        info = model_info(route.provider, route.model)
        return _both(rate(info, "input_cost_per_token"), rate(info, "output_cost_per_token"))
    import litellm

    try:
        info = litellm.get_model_info(lm.model)
        return _both(info.get("input_cost_per_token"), info.get("output_cost_per_token"))
    except Exception:  # LiteLLM raises a plain one for a model that it does not know.
        logger.debug("LiteLLM has no price of %s.", lm.model, exc_info=True)
        return None


def prompt_tokens(program: dspy.Module, examples: Sequence[dspy.Example], *, sample: int = 8) -> float | None:
    """Estimate how many tokens a program sends for one example, at four characters each.

    Inputs that only an earlier predictor of the program could give count as empty.

    Args:
        program: The program.
        examples: Examples with inputs set.
        sample: How many of them are looked at, at most.

    Returns:
        Mean tokens of an example; None where the configured adapter cannot write a prompt without a call.
    """
    adapter = dspy.settings.adapter or dspy.ChatAdapter()
    looked_at = list(examples)[:: max(1, len(examples) // sample)][:sample]
    characters = 0
    try:
        with dspy.context(callbacks=[]):
            for example in looked_at:
                for _, predictor in program.named_sub_modules(dspy.Predict):
                    given = example.inputs().toDict()
                    inputs = {name: given.get(name, "") for name in predictor.signature.input_fields}
                    messages = adapter.format(predictor.signature, predictor.demos, inputs)
                    characters += sum(len(str(message["content"])) for message in messages)
    except Exception:  # Of an adapter or a type of the user's; an estimate is not worth a compile.
        logger.debug("The prompts cannot be estimated.", exc_info=True)
        return None
    return characters / _CHARACTERS_PER_TOKEN / len(looked_at) if looked_at else None


def _both(sent: float | None, generated: float | None) -> tuple[float, float] | None:
    return None if sent is None or generated is None else (sent, generated)
