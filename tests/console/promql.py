"""As much of PromQL as our alerting rules use, evaluated over samples taken once a minute; anything else is refused.

    expr    = unary (op expr)?                      op: or · and · < > == <= >= · + - · * /
    unary   = number | function(args) | max by (labels) (expr) | (expr) | name{label="value", label=~"regex"}[minutes m]

`increase`, `delta` and `deriv` go by the samples in the window and do not extrapolate to its edges as Prometheus does, so a case must not
hang on a hundredth. Where there is a promtool, the same cases are put to it (`test_alerts.py`).
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Samples = Mapping[str, Mapping[Labels, Sequence[float | None]]]  # metric → labels → value at each minute

TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:e\d+)?)|(?P<range>\[\d+[mhd]\])|(?P<word>[a-zA-Z_:][\w:]*)|(?P<text>\"[^\"]*\")|(?P<op>=~|[<>=!]=|[-+*/<>=(){},]))"
)
MINUTES = {"m": 1, "h": 60, "d": 1440}
PRECEDENCE = {"or": 0, "and": 1, "<": 2, ">": 2, "==": 2, "<=": 2, ">=": 2, "+": 3, "-": 3, "*": 4, "/": 4}
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a / b if b else math.nan,
}
COMPARISON = {"<": operator.lt, ">": operator.gt, "==": operator.eq, "<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Selector:
    """A metric, which of its series, and over how many minutes."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    minutes: int | None = None

    def series(self, samples: Samples) -> dict[Labels, Sequence[float | None]]:
        return {
            labels: values
            for labels, values in samples.get(self.name, {}).items()
            if all(self._fits(dict(labels), *one) for one in self.matchers)
        }

    @staticmethod
    def _fits(labels: Mapping[str, str], name: str, op: str, value: str) -> bool:
        found = labels.get(name, "")
        return bool(re.fullmatch(value, found)) if op == "=~" else found == value


def duration(text: str) -> int:
    """`15m` → minutes."""
    return int(text[:-1]) * MINUTES[text[-1]]


def parse(text: str) -> Any:
    """A tree of tuples, floats and Selectors."""
    tokens, at = [], 0
    text = text.strip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not PromQL that we know, from {text[at:]!r}")
        tokens.append(match.group(match.lastgroup or 0))
        at = match.end()
    tree, rest = _expression(tokens, 0)
    if rest:
        raise ValueError(f"what is {rest!r} in {text!r}?")
    return tree


def _expression(tokens: list[str], least: int) -> tuple[Any, list[str]]:
    left, tokens = _unary(tokens)
    while tokens and PRECEDENCE.get(tokens[0], -1) >= least:
        op = tokens[0]
        right, tokens = _expression(tokens[1:], PRECEDENCE[op] + 1)
        left = (op, left, right)
    return left, tokens


def _inside(tokens: list[str]) -> tuple[Any, list[str]]:
    tree, tokens = _expression(tokens[1:], 0)
    assert tokens[0] == ")", tokens
    return tree, tokens[1:]


def _unary(tokens: list[str]) -> tuple[Any, list[str]]:
    head = tokens[0]
    if head == "(":
        return _inside(tokens)
    if head[0].isdigit():
        return float(head), tokens[1:]
    if head == "max":
        assert tokens[1:3] == ["by", "("], tokens
        close = tokens.index(")")
        tree, rest = _inside(tokens[close + 1 :])
        return ("max", tuple(tokens[3:close:2]), tree), rest
    if tokens[1:3] == ["(", ")"]:
        return (head,), tokens[3:]
    if tokens[1:2] == ["("]:
        tree, rest = _inside(tokens[1:])
        return (head, tree), rest
    matchers: list[tuple[str, str, str]] = []
    tokens = tokens[1:]
    if tokens[:1] == ["{"]:
        close = tokens.index("}")
        for at in range(1, close, 4):
            matchers.append((tokens[at], tokens[at + 1], tokens[at + 2][1:-1]))
        tokens = tokens[close + 1 :]
    minutes = None
    if tokens and tokens[0].startswith("["):
        minutes, tokens = duration(tokens[0][1:-1]), tokens[1:]
    return Selector(head, tuple(matchers), minutes), tokens


def selectors(tree: Any) -> list[Selector]:
    """Every metric that an expression asks for."""
    if isinstance(tree, Selector):
        return [tree]
    return [found for inner in tree[1:] for found in selectors(inner)] if isinstance(tree, tuple) else []


def evaluated(tree: Any, samples: Samples, minute: int) -> float | Vector:
    """At this minute; a scalar or series."""
    if isinstance(tree, float):
        return tree
    if isinstance(tree, Selector):
        return {labels: value for labels, values in tree.series(samples).items() if (value := _at(values, minute)) is not None}
    match tree:
        case ("time",):
            return minute * 60.0
        case ("absent", inner):
            return {} if evaluated(inner, samples, minute) else {frozenset(): 1.0}
        case ("max", names, inner):
            found: Vector = {}
            for labels, value in _vector(evaluated(inner, samples, minute)).items():
                group = frozenset((name, of) for name, of in labels if name in names)
                found[group] = max(found.get(group, -math.inf), value)
            return found
        case ("increase" | "delta" | "deriv" as name, Selector() as selector):
            assert selector.minutes is not None
            return {
                labels: _change(name, window)
                for labels, values in selector.series(samples).items()
                if len(window := [one for one in values[max(0, minute - selector.minutes + 1) : minute + 1] if one is not None]) > 1
            }
        case (op, left, right):
            return _binary(op, evaluated(left, samples, minute), evaluated(right, samples, minute))
    raise ValueError(f"not PromQL that we know: {tree!r}")


def _at(values: Sequence[float | None], minute: int) -> float | None:
    return values[minute] if minute < len(values) else None


def _vector(found: float | Vector) -> Vector:
    assert isinstance(found, dict)
    return found


def _change(name: str, window: Sequence[float]) -> float:
    if name == "delta":
        return window[-1] - window[0]
    if name == "increase":  # a counter that fell was started anew
        return sum(after - before if after >= before else after for before, after in itertools.pairwise(window))
    mean = (len(window) - 1) / 2
    slope = sum((at - mean) * value for at, value in enumerate(window)) / sum((at - mean) ** 2 for at in range(len(window)))
    return slope / 60  # per second


def _binary(op: str, left: float | Vector, right: float | Vector) -> float | Vector:
    if op == "and":
        return {labels: value for labels, value in _vector(left).items() if labels in _vector(right)}
    if op == "or":
        return {**_vector(right), **_vector(left)}
    keep = op in COMPARISON
    apply = COMPARISON[op] if keep else ARITHMETIC[op]
    if isinstance(left, float) and isinstance(right, float):
        assert not keep
        return apply(left, right)
    pairs = (
        {labels: (left, value) for labels, value in right.items()}
        if isinstance(left, float) and isinstance(right, dict)
        else {labels: (value, right) for labels, value in _vector(left).items()}
        if isinstance(right, float)
        else {labels: (value, right[labels]) for labels, value in _vector(left).items() if labels in right}
    )
    if keep:
        return {labels: one for labels, (one, other) in pairs.items() if apply(one, other)}
    return {labels: apply(one, other) for labels, (one, other) in pairs.items()}


def firing(expr: str, wait: int, samples: Samples, minutes: int) -> list[set[Labels]]:
    """For each minute the series for which the alert fires: true for at least `wait` minutes."""
    tree, since, fires = parse(expr), {}, []
    for minute in range(minutes):
        true = set(_vector(evaluated(tree, samples, minute)))
        since = {labels: since.get(labels, minute) for labels in true}
        fires.append({labels for labels, began in since.items() if minute - began >= wait})
    return fires
