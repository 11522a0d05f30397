"""Programs and LMs as they may be given away: without keys, calls of the past, and results."""

from __future__ import annotations

import logging

import dspy

from tp_dspy.runs.artifacts import without_secrets
from tp_dspy.scoring.programs import copy_sharing_lms, without_rivals

__all__ = ["portable_lm", "portable_program"]

logger = logging.getLogger(__name__)


def portable_program(program: dspy.Module) -> dspy.Module:
    """Copy a program for a pickle: its LMs become portable, and what optimisers left on it stays behind.

    Raises:
        RuntimeError: If it cannot be pickled.
    """
    copied = copy_sharing_lms(without_rivals(program))
    for _, module in copied.named_sub_modules():
        if isinstance(getattr(module, "lm", None), dspy.BaseLM):
            module.lm = portable_lm(module.lm)
    if (reason := _unpicklable(copied)) is not None:
        raise RuntimeError(f"{type(program).__name__} cannot be pickled ({reason})")
    return copied


def portable_lm(lm: dspy.BaseLM | None) -> dspy.BaseLM | None:
    """Make an LM anew from what is no secret of it; None where that does not make an LM.

    A pickle of an LM as it is would hold its API key and every call that it has made.
    """
    if lm is None:
        return None
    try:
        state = lm.dump_state()
        # Whole settings only, but for the server's address, which is of use without its user and query.
        clean = {name: value for name, value in state.items() if without_secrets({name: value}) == {name: value}}
        places = without_secrets({name: state[name] for name in ("api_base", "base_url") if name in state})
        made = type(lm).load_state(clean | places)
    except Exception as error:
        logger.info("The LM %s is left out of the saved program: %s", lm.model, error)
        return None
    return None if _unpicklable(made) is not None else made


def _unpicklable(value: object) -> str | None:
    import cloudpickle

    try:
        cloudpickle.dumps(value)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
