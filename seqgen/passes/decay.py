"""Decay factors and their logarithms: which form is exact, which axes they depend on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seqgen.ir.expr import Apply, Expand, Expr, IfPresent, Number, Ref, Size, add, call, mul, sub
from seqgen.ir.printer import show
from seqgen.passes.affine import NotAffineError, addends, factors_of, product, remove
from seqgen.passes.components import Program
from seqgen.passes.ranges import bounds

SMALLEST = 2.0**-126
"""log(max(f, SMALLEST)) stands for log(f) of a factor that may be zero."""

LOG_OF_ONE = Number(0.0)


@dataclass(frozen=True)
class Decay:
    """What multiplies the old state: ``exp(log + log_value)``.

    Attributes:
        kind: ``none``, ``head constant`` (the same for all tokens), ``scalar``, ``key``,
            ``value`` or ``key+value``.
        factor: the multiplier as the user wrote it; None for ``none``.
        log: its natural logarithm as one expression: over the head axes (``head constant``,
            ``scalar``) or head and key axes (``key``, ``key+value``), else None.
        log_value: the part over the value axes (``value``, ``key+value``), else None.
        clamped: whether a factor that may be zero was clamped: its gradient at zero is lost.
    """

    kind: str
    factor: Expr | None = None
    log: Expr | None = None
    log_value: Expr | None = None
    clamped: bool = False


def find_decay(
    program: Program, factor: Expr | None, key: tuple[str, ...], value: tuple[str, ...]
) -> Decay:
    """The decay class of a multiplier.

    Raises:
        NotAffineError: it has no safe logarithm, or depends on key and value axes together.
    """
    if factor is None:
        return Decay("none")
    logarithm = _Logarithm(program)
    log = logarithm.of(factor)
    parts = _spread(log, key, value)
    on_key = [p for p in parts if set(key) & set(p.axes)]
    on_value = [p for p in parts if set(value) & set(p.axes)]
    both = [p for p in on_key if p in on_value]
    if both:
        raise NotAffineError(
            f"its log-decay {show(both[0])} depends on {', '.join(key)} and "
            f"{', '.join(value)} together"
        )
    clamped = logarithm.clamped
    if on_key and on_value:
        rest = [p for p in parts if p not in on_value]
        return Decay("key+value", factor, _total(rest), _total(on_value), clamped)
    if on_key:
        return Decay("key", factor, log, clamped=clamped)
    if on_value:
        return Decay("value", factor, log_value=log, clamped=clamped)
    kind = "head constant" if _constant_in_time(program, log) else "scalar"
    return Decay(kind, factor, log, clamped=clamped)


def _total(parts: list[Expr]) -> Expr:
    result = parts[0]
    for part in parts[1:]:
        if isinstance(part, Apply) and part.op == "neg":
            result = sub(result, part.args[0])
        else:
            result = add(result, part)
    return result


def _spread(log: Expr, key: tuple[str, ...], value: tuple[str, ...]) -> list[Expr]:
    """Addends of a logarithm; products of sums are multiplied out only where that separates."""
    parts: list[Expr] = []
    for part in addends(log):
        mixed = set(key) & set(part.axes) and set(value) & set(part.axes)
        inner = part.args[0] if isinstance(part, Apply) and part.op == "neg" else part
        if mixed and isinstance(inner, Apply) and inner.op == "mul":
            sign = -1.0 if inner is not part else 1.0
            a, b = inner.args
            pieces = [(x, y) for x in addends(a) for y in addends(b)]
            if len(pieces) > 1:
                parts += [p for x, y in pieces for p in _spread(product((x, y), sign), key, value)]
                continue
        parts.append(part)
    return parts


def _constant_in_time(program: Program, expr: Expr) -> bool:
    """Whether ``expr`` reads parameters, indices and numbers only."""
    parameters = {t.value for t in program.recurrence.parameters}
    todo, seen = [expr], set()
    while todo:
        node = todo.pop()
        if isinstance(node, Ref) and node.name not in parameters:
            if node.name not in program.definitions or node.name in program.owner:
                return False
            if node.name not in seen:
                seen.add(node.name)
                todo.append(program.definitions[node.name])
        todo.extend(node.children)
    return True


class _Logarithm:
    """Logarithms of factors, looking through names."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.clamped = False

    def of(self, factor: Expr) -> Expr:
        found = self.exact(factor)
        if found is not None:
            return found
        low, _ = bounds(factor, self.program.recurrence)
        if low < 0.0:
            raise NotAffineError(f"its decay factor {show(factor)} may be negative")
        if low >= SMALLEST:
            return call("log", factor)
        self.clamped = True
        return call("log", call("max", factor, Number(SMALLEST)))

    def exact(self, factor: Expr) -> Expr | None:
        """The logarithm where the form of ``factor`` gives it away, else None."""
        if isinstance(factor, Number):
            if factor.value < 0.0:
                return None
            return Number(math.log(factor.value) if factor.value else -math.inf)
        if isinstance(factor, Size):
            return call("log", factor)
        if isinstance(factor, Ref):
            if factor.at or factor.name in self.program.owner:
                return None
            definition = self.program.definitions.get(factor.name)
            return None if definition is None else self.exact(definition)
        if isinstance(factor, Expand):
            inner = self.exact(factor.arg)
            if inner is None or factor.parent not in inner.axes:
                return inner
            return Expand(inner, factor.parent, factor.child)
        if isinstance(factor, IfPresent):
            return IfPresent(factor.name, self.of(factor.then), self.of(factor.other))
        return self.exact_apply(factor) if isinstance(factor, Apply) else None

    def exact_apply(self, factor: Apply) -> Expr | None:
        args = factor.args
        if factor.op == "exp":
            return args[0]
        if factor.op == "sigmoid":
            return call("logsigmoid", args[0])
        if factor.op == "sub" and args[0] == Number(1.0):
            inner = args[1]
            while isinstance(inner, Ref) and inner.name in self.program.definitions:
                inner = self.program.definitions[inner.name]
            if isinstance(inner, Apply) and inner.op == "sigmoid":
                return call("logsigmoid", call("neg", inner.args[0]))
            return None
        if factor.op == "mul":
            return self.joined(add, self.of(args[0]), self.of(args[1]))
        if factor.op == "div":
            return self.joined(sub, self.of(args[0]), self.of(args[1]))
        if factor.op == "sqrt":
            return mul(Number(0.5), self.of(args[0]))
        if factor.op == "pow":
            base = self.exact(args[0])
            return None if base is None else mul(args[1], base)
        if factor.op == "where":
            return call("where", args[0], self.of(args[1]), self.of(args[2]))
        if factor.op == "add":
            return self.either(args[0], args[1])
        return None

    def either(self, a: Expr, b: Expr) -> Expr | None:
        """The logarithm of ``where(c, 1, 0) * x + where(c, 0, 1) * y``: each where it holds."""
        (number, of_a), (other, of_b) = factors_of(a), factors_of(b)
        for factor in of_a:
            if not isinstance(factor, Apply) or factor.op != "where":
                continue
            condition, *branches = factor.args
            counterpart = call("where", condition, *reversed(branches))
            x, y = remove(of_a, [factor]), remove(of_b, [counterpart])
            if x is None or y is None:
                continue
            logs = self.of(product(x, number)), self.of(product(y, other))
            if branches == [Number(1.0), Number(0.0)]:
                return call("where", condition, *logs)
            if branches == [Number(0.0), Number(1.0)]:
                return call("where", condition, *reversed(logs))
        return None

    @staticmethod
    def joined(op: object, a: Expr, b: Expr) -> Expr:
        if a == LOG_OF_ONE and op is add:
            return b
        if b == LOG_OF_ONE:
            return a
        if isinstance(b, Number) and b.value < 0.0:
            return sub(a, Number(-b.value)) if op is add else add(a, Number(-b.value))
        return add(a, b) if op is add else sub(a, b)
