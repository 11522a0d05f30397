"""How work goes on, for whoever waits: one calm display for terminals and notebooks, and lines for log files.

`state` knows what the events say, `view` what is shown of it; `terminal`, `notebook` and `lines` draw that.
"""

from tp_dspy.progress.live import LiveProgress, counting, watching

__all__ = ["LiveProgress", "counting", "watching"]
