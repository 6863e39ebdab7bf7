"""What an audit found."""

import dataclasses
from typing import Any

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that an audit found.

    Attributes:
        path: Where the layer is: the names of the layers that hold it, and its own, with slashes between.
        what: Which kind of finding, one of those in `docs/audit.md`, such as `"never-called"`.
        severity: `"error"`: it does not do what it says. `"warning"`: it does, and that does harm in most models.
            `"note"`: good to know, and no problem.
        message: What was seen.
        advice: What to do.
        measured: The numbers behind it, by name.

    Example:

    >>> import keras
    >>> from keras_dropouts import audit
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(1.0), keras.layers.Dense(2)])
    >>> audit(model).problems[0].what
    'rate-1'
    """

    path: str
    what: str
    severity: str
    message: str
    advice: str
    measured: dict[str, float] = dataclasses.field(default_factory=dict)

    def __str__(self):
        return f"{self.severity}: {self.path}: {self.message} [{self.what}] {self.advice}"


@dataclasses.dataclass(frozen=True)
class AuditedLayer:
    """What an audit saw of one layer that draws.

    Attributes:
        path: Where it is, as in `Finding`.
        kind: The name of its class.
        rate: The rate that was asked for, or `None` where it has no number that says so.
        fit: Whether it draws as `fit` calls the model; `None` if it is not called then.
        predict: Whether it draws as `predict` calls the model; `None` if it is not called then.
        always_on: Whether it draws in `keras_dropouts.always_on`; `None` if there is no telling.
        share: The share that it dropped, or `None` where it is no multiplication by a mask.
        z: By how many standard errors the share is above the rate, or `None` where the rate is no such share.

    Example:

    >>> import keras
    >>> from keras_dropouts import audit
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(1.0), keras.layers.Dense(2)])
    >>> audit(model).layers[0].fit
    True
    """

    path: str
    kind: str
    rate: float | None = None
    fit: bool | None = None
    predict: bool | None = None
    always_on: bool | None = None
    share: float | None = None
    z: float | None = None


@dataclasses.dataclass(frozen=True)
class Audit:
    """What `keras_dropouts.audit` returns. Printed, it is a table of the layers that draw, and what was found.

    Attributes:
        layers: An `AuditedLayer` for each layer that draws, in the order of the model.
        findings: All that was found, a list of `Finding`.

    Example:

    >>> import keras
    >>> from keras_dropouts import audit
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(1.0), keras.layers.Dense(2)])
    >>> audit(model).exit_code
    1
    """

    layers: list[AuditedLayer]
    findings: list[Finding]

    @property
    def problems(self) -> list[Finding]:
        """The findings but for the notes."""
        return [finding for finding in self.findings if finding.severity != NOTE]

    @property
    def exit_code(self) -> int:
        """0 without problems, 1 with some: what the command line exits with."""
        return int(bool(self.problems))

    def __repr__(self):
        return f"<Audit of {_count(self.layers, 'layer')} that draw: {_count(self.problems, 'problem')}>"

    def __str__(self):
        headings = "layer", "class", "rate", "fit", "predict", "always_on", "share", "z"
        rows = [headings, *(tuple(map(_cell, dataclasses.astuple(layer))) for layer in self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        # Names to the left, numbers to the right.
        lines = [
            "  ".join(f"{cell:{'<>'[i > 1]}{width}}" for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        order = sorted(self.findings, key=lambda finding: (ERROR, WARNING, NOTE).index(finding.severity))
        drawing = _count(self.layers, "layer")
        end = f"{drawing} that draw{'s' * (len(self.layers) == 1)}, {_count(self.problems, 'problem')}."
        return "\n".join([*(lines if self.layers else []), *map(str, order), end])


def _count(items: list[Any], name: str) -> str:
    return f"{len(items)} {name}{'s' * (len(items) != 1)}"


def _cell(value):
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
