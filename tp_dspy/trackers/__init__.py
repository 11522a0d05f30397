"""Trackers: listeners that log a compile to MLflow or Weights & Biases, and spans for OpenTelemetry.

    TransferPrompting(..., listeners=[MLflowTracker(experiment="transfer")])

Nothing of what they log to is imported before one is made.
"""

from tp_dspy.trackers.mlflow_tracker import MLflowTracker
from tp_dspy.trackers.telemetry import TelemetryCallback
from tp_dspy.trackers.wandb_tracker import WandbTracker

__all__ = ["MLflowTracker", "TelemetryCallback", "WandbTracker"]
