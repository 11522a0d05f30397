"""What is shown of what is known: the words and figures of the display."""

from __future__ import annotations

import math
from dataclasses import replace

from tp_dspy.optimization.stopping import Budget, ReferenceCalls, ScorerCalls, Seconds, Spent, Tokens, Usd
from tp_dspy.progress.state import SHORT, Phase, State
from tp_dspy.progress.view import View, counted, duration, roughly
from tp_dspy.sheets import number, signed

__all__ = ["seconds_left", "view"]

_SUMS = ("scored", "errors", "cached")
# A screen is to hold them all.
_SHOWN = 8


def view(state: State, now: float) -> View:
    """Lay out what is known.

    Args:
        state: What is known.
        now: The time, as in `State.take`.
    """
    seconds = 0.0 if state.began is None else now - state.began
    shown = View(seconds, state.before, state.ended, after=state.after, step=state.step)
    if not state.going:
        return shown
    if state.side_by_side:
        return _side_by_side(state, shown)
    phase, spent = state.going[0], state.plan.spent()
    rows = [
        ("Best", _best(phase) if phase.searches else ""),
        ("Calls", _calls(state, phase, spent)),
        ("Cost", _cost(state, spent) if phase.planned else ""),
        ("Time", _time(state, seconds, spent)),
        ("Errors", _errors(phase)),
    ]
    kept = tuple((label, text) for label, text in rows if text)
    line = "; ".join(
        [_heading(phase), *(f"{label.lower()} {text}" for label, text in kept if label != "Time"), _left(state, spent)]
    )
    return replace(
        shown,
        title=_heading(phase),
        done=phase.scored,
        total=phase.total or None,
        count=_count(phase),
        rows=kept,
        line=line,
    )


def _side_by_side(state: State, shown: View) -> View:
    """Lay out phases that go on at once: what they have in common, and a row for each."""
    spent = state.plan.spent()
    scored, errors, cached = (sum(getattr(phase, name) for phase in state.going) for name in _SUMS)
    # One bar for all targets: it gets shorter where one of them ends with less than was planned for it.
    done = state.ended[state.earlier :]
    before = sum(ended.pairs for ended in done)
    later = [plan.scorer_calls for plan in state.plan.plans if plan.phase not in state.begun]
    total = before + sum(phase.total for phase in state.going) + sum(later)
    whole = replace(state.going[0], scored=scored, total=total, errors=errors, cached=cached)
    title = f"{counted(len(state.going), 'target')} at once, {len(done)} done, {len(later)} to come"
    shared = [
        ("Calls", _calls(state, whole, spent)),
        ("Cost", _cost(state, spent)),
        ("Errors", _errors(whole)),
        ("Time", _time(state, shown.seconds, spent)),
    ]
    kept = [(label, text) for label, text in shared if text]
    more = [("", f"and {len(state.going) - _SHOWN} more")] if len(state.going) > _SHOWN else []
    return replace(
        shown,
        title=title,
        done=before + scored,
        total=total or None,
        count=_count(replace(whole, scored=before + scored)),
        rows=(*(("", _at_a_glance(phase)) for phase in state.going[:_SHOWN]), *more, *kept),
        line="; ".join(
            [title, *(f"{label.lower()} {text}" for label, text in kept if label != "Time"), _left(state, spent)]
        ),
    )


def _at_a_glance(phase: Phase) -> str:
    """Say in one line where a phase is that goes on beside others."""
    where = (
        "choosing" if phase.choosing else f"round {phase.round} of {phase.rounds}" if phase.round else "first prompts"
    )
    best = "" if phase.best is None else f", best {number(phase.best.score)}"
    return f"{phase.short:<{SHORT}}  {_of(phase.scored, phase.total, None)}, {where}{best}"


def _heading(phase: Phase) -> str:
    rounds = f", round {phase.round} of {phase.rounds}" if phase.round else ""
    doing = f": {phase.doing}" if phase.doing else ""
    return f"{phase.title}{rounds}{doing}"


def _count(phase: Phase) -> str:
    if not phase.total:
        return f"{phase.scored:,}"
    # A plan is a ceiling: a race drops candidates, and not every reply is usable.
    return f"{phase.scored:,} of {'at most ' if phase.planned else ''}{phase.total:,}"


def _best(phase: Phase) -> str:
    if phase.best is None:
        return "not known yet: no prompt has met all examples"
    broken = ", which breaks the constraints" if phase.best.violation > 0 else ""
    score = f"{number(phase.best.score)}{broken}"
    if phase.best.candidate.origin == "original":
        return f"{score}, the original's (search score)"
    if math.isnan(phase.original):
        dropped = "" if math.isnan(phase.behind) else f"; the original was dropped, {number(phase.behind)} behind"
        return f"{score} (search score){dropped}"
    return f"{score}, {signed(phase.best.score - phase.original)} on the original (search scores)"


def _calls(state: State, phase: Phase, spent: Spent) -> str:
    """Calls of both LMs, in the whole compile; outside it, how much the cache knew."""
    cached = f"{phase.cached / phase.scored:.0%} cached" if phase.cached else ""
    if not phase.planned:
        return cached
    planned = sum(plan.scorer_calls for plan in state.plan.plans)
    asked = sum(plan.reference_calls for plan in state.plan.plans)
    parts = [f"{_of(spent.scorer_calls, planned, _limit(state, ScorerCalls))} scorer"]
    if asked:
        parts.append(f"{_of(spent.reference_calls, asked, _limit(state, ReferenceCalls))} reference")
    return ", ".join(filter(None, [*parts, cached]))


def _of(count: int, planned: int, limit: float | None) -> str:
    if limit is not None and limit < planned:
        return f"{count:,} of {limit:,.0f} (budget)"
    if count > planned:
        # Pairs without an answer are tried again, which no plan foresees.
        return f"{count:,} ({planned:,} planned)"
    return f"{count:,} of {planned:,}"


def _cost(state: State, spent: Spent) -> str:
    tokens, usd = _limit(state, Tokens), _limit(state, Usd)
    parts = []
    if spent.tokens or tokens is not None:
        parts.append(f"{spent.tokens:,} tokens" if tokens is None else f"{spent.tokens:,} of {tokens:,.0f} tokens")
    if spent.usd is None:
        parts.append("price unknown")
    elif spent.usd or usd is not None:
        parts.append(f"{spent.usd:.4f} USD" if usd is None else f"{spent.usd:.4f} of {usd:g} USD")
    return ", ".join(parts)


def _errors(phase: Phase) -> str:
    if not phase.errors:
        return ""
    return f"{phase.errors:,} of {counted(phase.scored, 'scorer call')} got no answer"


def _time(state: State, seconds: float, spent: Spent) -> str:
    budget = _limit(state, Seconds)
    passed = duration(seconds) if budget is None else f"{duration(seconds)} of {duration(budget)}"
    return f"{passed}, {_left(state, spent)}"


def _left(state: State, spent: Spent) -> str:
    seconds, unknown = seconds_left(state, spent)
    if seconds is None:
        return "time left not known yet"
    more = f", and {counted(unknown, 'round')} of proposals" if unknown else ""
    return f"at most ~{roughly(seconds)} left{more}"


def seconds_left(state: State, spent: Spent) -> tuple[float | None, int]:
    """Say how much time is left at most: for what is planned, as far as the budgets pay for it.

    Args:
        state: What is known.
        spent: What has been spent.

    Returns:
        As `Pace.left`.
    """
    pairs, rounds = state.to_come()
    for budget in state.plan.budgets:
        if isinstance(budget, ScorerCalls | Tokens | Usd) and spent.scorer_calls:
            each = budget.spent(spent) / spent.scorer_calls
            affordable = max(0.0, budget.limit - budget.spent(spent)) / each if 0 < each < math.inf else math.inf
            pairs = min(pairs, math.ceil(affordable)) if affordable < math.inf else pairs
    seconds, unknown = state.pace.left(pairs, rounds)
    limit = _limit(state, Seconds)
    if seconds is not None and limit is not None and limit - spent.seconds <= seconds:
        return max(0.0, limit - spent.seconds), 0
    return seconds, unknown


def _limit(state: State, kind: type[Budget]) -> float | None:
    return next((budget.limit for budget in state.plan.budgets if isinstance(budget, kind)), None)
