"""``python -m tp_dspy.cli``."""

from tp_dspy.cli import app

app()
