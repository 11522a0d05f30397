"""Log-probabilities that a metric can read and that no optimiser shows to its reference LM."""

from __future__ import annotations

import dspy

__all__ = ["quiet"]


def quiet(prediction: dspy.Prediction) -> dspy.Prediction:
    """Take the log-probabilities out of a prediction's fields, and keep them as an attribute.

    GEPA and SIMBA show the fields to the reference LM: three predictions with log-probabilities are 8,000 tokens,
    of which no LM makes anything.
    """
    if "logprobs" in prediction.keys():  # noqa: SIM118 - a prediction is no mapping
        object.__setattr__(prediction, "logprobs", prediction.logprobs)
        del prediction["logprobs"]
    return prediction
