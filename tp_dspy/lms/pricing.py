"""Whether DSPy knows what an LM costs."""

from __future__ import annotations

import logging

import dspy

__all__ = ["has_price"]

logger = logging.getLogger(__name__)


def has_price(lm: dspy.BaseLM) -> bool:
    """Say whether the calls of an LM come with an estimate in US dollars: there is a rate for its tokens.

    Asks the tables that DSPy itself estimates by, without a call. A custom engine has no price.
    """
    if not isinstance(getattr(lm, "engine", None), str):
        return False
    try:
        from dspy.clients.capabilities import resolve
        from dspy.clients.model_metadata import model_info, rate

        route = resolve(lm)
        info = model_info(route.provider, route.model)
        return rate(info, "input_cost_per_token") is not None and rate(info, "output_cost_per_token") is not None
    except Exception:
        # DSPy has no door of its own to this provider: LiteLLM calls it, and estimates what it costs.
        logger.debug("DSPy cannot resolve %s.", lm.model, exc_info=True)
    try:
        import litellm

        info = litellm.get_model_info(lm.model)
        return info.get("input_cost_per_token") is not None and info.get("output_cost_per_token") is not None
    except Exception:  # LiteLLM raises a plain one for a model that it does not know.
        logger.debug("LiteLLM has no price of %s.", lm.model, exc_info=True)
        return False
