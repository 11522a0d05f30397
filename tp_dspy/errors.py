"""Every exception and warning that tp_dspy raises on purpose.

Each message says what was given, what was expected and what to do about it.
"""

__all__ = [
    "ArtifactError",
    "ConfigurationError",
    "DataError",
    "HubUnavailableError",
    "JournalError",
    "LMUnavailableError",
    "LogprobsUnavailableError",
    "MissingDependencyError",
    "NoUsableProposalWarning",
    "ProgramError",
    "ScoringFailedError",
    "SplitOverlapError",
    "SplitOverlapWarning",
    "TransferPromptingError",
    "WorkersLostError",
]


class TransferPromptingError(Exception):
    """Base class: catch this one to catch everything tp_dspy raises on purpose."""


class ConfigurationError(TransferPromptingError, ValueError):
    """An argument has a value that cannot work."""


class DataError(TransferPromptingError, ValueError):
    """A task's examples cannot be used as they are: empty, too few, or with fields missing."""


class SplitOverlapError(DataError):
    """A test split shares questions with a split that the search may look at."""


class HubUnavailableError(TransferPromptingError, OSError):
    """A data set or model hub could not be reached, or does not have what was asked for."""


class ProgramError(TransferPromptingError, ValueError):
    """A program cannot be optimised: no predictors, or fields and predictors that do not match."""


class LMUnavailableError(TransferPromptingError, RuntimeError):
    """An LM cannot be called at all: no such model, no API key, nobody listening."""


class LogprobsUnavailableError(TransferPromptingError, RuntimeError):
    """Confidence from logits was asked for, and the LM returned no log-probabilities."""


class MissingDependencyError(TransferPromptingError, ImportError):
    """An optional package is not installed."""


class ScoringFailedError(TransferPromptingError, RuntimeError):
    """Too many scorer calls failed for reasons that are not the prompt's; nothing was held against a prompt."""


class WorkersLostError(TransferPromptingError, RuntimeError):
    """Worker processes died, or cannot run what they are given; nothing was held against a prompt."""


class ArtifactError(TransferPromptingError, ValueError):
    """A saved file is not what it should be: another format, an unknown version, or damaged."""


class JournalError(TransferPromptingError, OSError):
    """The journal of a run folder cannot be used: taken by another process, not a journal, damaged, or a full disk."""


class NoUsableProposalWarning(UserWarning):
    """The reference LM returned nothing that could serve as an instruction."""


class SplitOverlapWarning(UserWarning):
    """A source task shares questions with the target task."""
