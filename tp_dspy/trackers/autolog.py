"""What MLflow's autologging of DSPy does not see by itself.

MLflow has no public way to tell it. Where a version of it lacks a name that is used here, that is a warning, no more.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

__all__ = ["patched"]

logger = logging.getLogger(__name__)

_FLAVOUR = "dspy"


def patched(optimiser: type) -> None:
    """Have autologging see an optimiser that was loaded after it was switched on; where it is off nothing is done.

    It patches the optimisers that are there at that moment. To switch it on again would do, but would configure DSPy
    anew, which one thread only may, and bring back callbacks that were taken out since.
    """
    try:
        utils = _switched_on()
        if utils is not None:
            patch = importlib.import_module("mlflow.dspy.autolog")._patched_compile
            manages = utils.get_autologging_config(_FLAVOUR, "log_compiles")
            utils.safe_patch(_FLAVOUR, optimiser, "compile", patch, manage_run=manages)
    except Exception as error:
        logger.warning(
            "MLflow's autologging was switched on before %s was loaded, and does not see it (%s: %s): call "
            "mlflow.dspy.autolog() again.",
            optimiser.__name__,
            type(error).__name__,
            error,
        )


def _switched_on() -> Any:
    """Give MLflow's module about autologging where that of DSPy is switched on, else None; nothing is imported."""
    utils = sys.modules.get("mlflow.utils.autologging_utils")
    return None if utils is None or utils.autologging_is_disabled(_FLAVOUR) else utils
