"""Copies of programs."""

from __future__ import annotations

import copy
import logging

import dspy

__all__ = ["copy_sharing_lms", "without_rivals"]

logger = logging.getLogger(__name__)

# What DSPy's optimisers leave on the program that they return: rivals of it, and records that hold them.
_LEFT_BEHIND = ("candidate_programs", "mb_candidate_programs", "trial_logs", "detailed_results")


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


def without_rivals(program: dspy.Module) -> dspy.Module:
    """Give a program without what earlier optimisers left on it; the program itself where there is nothing.

    Whoever walks through a program would come across the rivals: their prompts would count as its own, and each of its
    copies would hold copies of all of them.
    """
    left = [name for name in _LEFT_BEHIND if name in vars(program)]
    if not left:
        return program
    bare = copy.copy(program)
    for name in left:
        delattr(bare, name)
    return copy_sharing_lms(bare)
