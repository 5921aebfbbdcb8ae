"""What can go wrong in an export, in words for the person who started it. Knows no command line."""

from __future__ import annotations


class ExportError(Exception):
    """An export that cannot be done; its text is one complete, clear message. Nothing was published."""


class OptionError(ExportError):
    """The caller asked for something impossible: a bad name, size, labels file."""


class CheckpointError(ExportError):
    """The checkpoint cannot be read, or does not fit the variant or the labels."""


class DownloadError(ExportError):
    """An official checkpoint cannot be had, or is not the one that was pinned."""


class GraphError(ExportError):
    """The exported graph is not what the served model's contract says."""


class VerificationError(ExportError):
    """The exported graph does not compute what the network computes."""


class RepositoryError(ExportError):
    """The model repository cannot take the model."""


class PlanError(ExportError):
    """A TensorRT plan cannot be built here."""


class GateError(ExportError):
    """The accuracy of a model could not be measured, or is too low."""
