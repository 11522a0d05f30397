"""What a plan comes to in tokens and dollars, before anything is called."""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from tp_dspy.errors import ConfigurationError
from tp_dspy.lms.pricing import price, prompt_tokens
from tp_dspy.optimization.plan import PhasePlan

__all__ = ["check_prices", "estimate"]


def estimate(
    plans: Sequence[PhasePlan],
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    lms: Sequence[dspy.BaseLM],
    runs: int = 1,
) -> str:
    """Say in a sentence what a plan comes to, as far as that is known; empty where nothing is.

    Args:
        plans: The phases.
        program: The program, with its own instructions.
        examples: What it will be scored on.
        lms: The LMs that it calls.
        runs: How often it runs for each pair.
    """
    each = prompt_tokens(program, examples)
    if each is None:
        return ""
    tokens = each * runs * sum(plan.scorer_calls for plan in plans)
    rates = {str(lm.model): price(lm) for lm in lms}
    known = [rate for rate in rates.values() if rate is not None]
    usd = f" ({tokens * known[0][0]:.4f} USD)" if len(known) == len(rates) == 1 else ""
    return f"About {tokens:,.0f} tokens sent by the program{usd}; replies and the reference LM come on top."


def check_prices(lms: Sequence[dspy.BaseLM]) -> None:
    """Refuse a budget in dollars where a price is not known.

    Raises:
        ConfigurationError: If DSPy knows no price of one of the LMs.
    """
    unknown = sorted({str(lm.model) for lm in lms if price(lm) is None})
    if unknown:
        raise ConfigurationError(
            f"A budget in USD was given, and DSPy knows no price of {', '.join(unknown)}. Limit Tokens, ScorerCalls or "
            "ReferenceCalls instead."
        )
