"""The functions of the language: names, arguments, and one line of help each.

The table is data only. ``spec`` reserves the names, ``passes.lower`` checks calls against it and
gives them meaning, and messages print the signatures.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """One function.

    ``arguments`` has the kind of each positional argument: ``"value"`` (any expression) or
    ``"axis"`` (the name of an axis). With ``more_axes`` further axis names may follow.
    ``options`` are the keyword arguments; ``renames`` means keywords are pairs of axes.
    """

    signature: str
    arguments: tuple[str, ...]
    about: str
    more_axes: bool = False
    options: tuple[str, ...] = ()
    renames: bool = False

    @property
    def name(self) -> str:
        """What stands in front of the bracket."""
        return self.signature.partition("(")[0]


_VALUE, _AXIS = ("value",), ("axis",)


def _pointwise(name: str, about: str) -> Function:
    return Function(f"{name}(x)", _VALUE, about)


_TABLE = (
    Function("sum(x, axis, ...)", _VALUE + _AXIS, "Sum over one or more axes.", more_axes=True),
    Function("mean(x, axis, ...)", _VALUE + _AXIS, "Mean over one or more axes.", more_axes=True),
    Function("amax(x, axis, ...)", _VALUE + _AXIS, "Largest value over axes.", more_axes=True),
    Function("softmax(x, axis)", _VALUE + _AXIS, "Softmax along an axis."),
    Function(
        "l2norm(x, axis, eps=1e-6)",
        _VALUE + _AXIS,
        "x * rsqrt(sum(x * x, axis) + eps).",
        options=("eps",),
    ),
    Function("rename(x, OLD=NEW)", _VALUE, "The same values along another axis.", renames=True),
    Function("clamp(x, lo, hi)", _VALUE * 3, "x limited to lo ... hi."),
    Function("where(condition, a, b)", _VALUE * 3, "a where the condition holds, else b."),
    Function("max(a, b)", _VALUE * 2, "The larger of two values."),
    Function("min(a, b)", _VALUE * 2, "The smaller of two values."),
    Function("logaddexp(a, b)", _VALUE * 2, "log(exp(a) + exp(b)), without overflow."),
    _pointwise("exp", "e to the power of x."),
    _pointwise("log", "Natural logarithm."),
    _pointwise("log1p", "log(1 + x), exact for small x."),
    _pointwise("expm1", "exp(x) - 1, exact for small x."),
    _pointwise("sqrt", "Square root."),
    _pointwise("rsqrt", "1 / sqrt(x)."),
    _pointwise("sigmoid", "1 / (1 + exp(-x))."),
    _pointwise("logsigmoid", "log(sigmoid(x))."),
    _pointwise("softplus", "log(1 + exp(x)); x itself above 20."),
    _pointwise("silu", "x * sigmoid(x)."),
    _pointwise("relu", "max(x, 0)."),
    _pointwise("tanh", "Hyperbolic tangent."),
    _pointwise("sin", "Sine of x in radians."),
    _pointwise("cos", "Cosine of x in radians."),
    _pointwise("abs", "Absolute value."),
    _pointwise("sign", "-1, 0 or 1."),
    _pointwise("detach", "x, without a gradient."),
    _pointwise("prev", "The value one token earlier in scan order."),
    Function("position()", (), "Index of the token in its sequence, in scan order."),
    Function("index(axis)", _AXIS, "0, 1, 2, ... along an axis."),
    Function(
        "rotary(x, axis, theta, half, pairs=adjacent)",
        ("value", "axis", "value", "axis"),
        "x rotated by theta in pairs along an axis; pairs are adjacent or halves.",
        options=("pairs",),
    ),
)

FUNCTIONS: dict[str, Function] = {function.name: function for function in _TABLE}
