"""Copies of programs."""

from __future__ import annotations

import copy
import logging

import dspy

__all__ = ["copy_sharing_lms"]

logger = logging.getLogger(__name__)


def copy_sharing_lms(program: dspy.Module) -> dspy.Module:
    """Copy a program but not its LMs: a copy of an LM takes its engine, its clients and its whole history along."""
    held = [getattr(module, "lm", None) for _, module in program.named_sub_modules()]
    try:
        return copy.deepcopy(program, {id(lm): lm for lm in held if isinstance(lm, dspy.BaseLM)})
    except Exception as error:
        # Some attribute (a lock, a client) cannot be copied; DSPy's own way shares it.
        logger.debug("%s cannot be copied in one go: %s", type(program).__name__, error)
    copied = program.deepcopy()
    after = dict(copied.named_sub_modules())
    for name, module in program.named_sub_modules():
        if isinstance(getattr(module, "lm", None), dspy.BaseLM) and name in after:
            after[name].lm = module.lm
    return copied
