"""Selections written as expressions over labels and values: ``snr >= 0 and technology == "lte"``.

Grammar: Python's comparisons (also chained), ``in`` and ``not in`` lists, ``and``, ``or``, ``not`` and brackets, over
names, quoted text and numbers; nothing is called or looked up. A label whose names are all numbers compares as a
number (and, with ``==``, ``!=`` and ``in``, as text too). A label that is no plain word stands in backticks, as in
pandas: ``\\`code rate\\` > 0.5``. A sample that lacks a label satisfies no comparison with it, not even ``!=``, and
no comparison's negation either: as in SQL, a comparison with what is lacking is neither true nor false, nor is its
``not``, so ``not x == y`` selects what ``x != y`` selects.
"""

import ast
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.errors import DatasetError

Mask = npt.NDArray[np.bool_]
Truth = tuple[Mask, Mask]
"""Where an expression is true and where it is false; where neither, a sample lacks what is asked."""

_TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|`([^`]*)`|([A-Za-z_]\w*)")
_SHOWN = 200
"""Characters of a selection that an error shows."""

_SYNTAX = frozenset({"and", "or", "not", "in", "True", "False", "None"})
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}


def select(
    expression: str,
    labels: Mapping[str, npt.NDArray[Any]],
    label_names: Mapping[str, list[str]],
    values: Mapping[str, npt.NDArray[Any]],
    count: int,
) -> Mask:
    """Which samples an expression is true for.

    Args:
        expression: see the module.
        labels: label to codes ``[count]``, -1 where a sample lacks it.
        label_names: label to its names, in the order of the codes.
        values: name to numbers ``[count]``, NaN where a sample lacks it.
        count: samples.

    Returns:
        bool ``[count]``.

    Raises:
        DatasetError: no valid expression, an unknown label, or a name that the label does not have; the message
            lists those there are.
    """
    return _Selection(expression, labels, label_names, values, count).run()


class _Selection:
    def __init__(
        self,
        expression: str,
        labels: Mapping[str, npt.NDArray[Any]],
        label_names: Mapping[str, list[str]],
        values: Mapping[str, npt.NDArray[Any]],
        count: int,
    ) -> None:
        self.expression, self.count = expression, count
        self.labels, self.label_names, self.values = labels, label_names, values
        self.aliases: dict[str, str] = {}

    def run(self) -> Mask:
        try:
            tree = ast.parse(_TOKEN.sub(self._alias, self.expression.strip()), mode="eval")
            return self._truth(tree.body)[0]
        except (SyntaxError, ValueError) as error:
            raise self._wrong("is not an expression", 'for example snr >= 0 and technology == "lte"') from error
        except (RecursionError, MemoryError) as error:
            # The parser's own stack overflows as a MemoryError.
            raise self._wrong("is nested too deeply", "fewer brackets and nots, or an in with a list") from error

    def _alias(self, match: re.Match[str]) -> str:
        """A name that Python could not parse (in backticks, or a keyword like ``class``) becomes one that it can."""
        quoted, word = match.groups()
        known = word in self.label_names or word in self.values
        if quoted is None and not (known and keyword.iskeyword(word) and word not in _SYNTAX):
            return match.group()
        alias = f"_column_{len(self.aliases)}"
        self.aliases[alias] = word if quoted is None else quoted
        return alias

    def _wrong(self, problem: str, expected: str = "", remedy: str = "") -> DatasetError:
        shown = self.expression if len(self.expression) <= _SHOWN else self.expression[:_SHOWN] + "..."
        return DatasetError(f"selection {shown!r} {problem}", expected, remedy)

    def _truth(self, node: ast.expr) -> Truth:
        if isinstance(node, ast.BoolOp):
            true, false = zip(*(self._truth(part) for part in node.values), strict=True)
            if isinstance(node.op, ast.And):
                return np.logical_and.reduce(true), np.logical_or.reduce(false)
            return np.logical_or.reduce(true), np.logical_and.reduce(false)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            unfulfilled, fulfilled = self._truth(node.operand)
            return fulfilled, unfulfilled
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            true, false = zip(
                *(
                    self._comparison(left, operator, right)
                    for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
                ),
                strict=True,
            )
            return np.logical_and.reduce(true), np.logical_or.reduce(false)
        raise self._wrong(
            f"holds {ast.unparse(node)!r}, which is no comparison", "comparisons joined by and, or and not"
        )

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Truth:
        if isinstance(operator, ast.In | ast.NotIn):
            return self._membership(left, right, negate=isinstance(operator, ast.NotIn))
        if type(operator) not in _COMPARE:
            raise self._wrong("uses 'is'", "==, !=, <, <=, >, >=, in or not in")
        compare = _COMPARE[type(operator)]
        columns = [side for side in (left, right) if isinstance(side, ast.Name)]
        constants = [self._constant(side) for side in (left, right) if not isinstance(side, ast.Name)]
        if not columns:
            raise self._wrong(f"compares {ast.unparse(left)} with {ast.unparse(right)}", "a label or value on one side")
        constant = constants[0] if constants else None
        if isinstance(constant, str):
            if not isinstance(operator, ast.Eq | ast.NotEq):
                raise self._wrong(f"orders {self._name(columns[0])} by text {constant!r}", "a number, or == and !=")
            return self._named(self._name(columns[0]), [constant], negate=isinstance(operator, ast.NotEq))
        for column in columns:
            self._name(column)  # a word without quotes is told before what it is compared with
        sides = [self._numbers(s) if isinstance(s, ast.Name) else self._constant(s) for s in (left, right)]
        known = ~(np.isnan(sides[0]) | np.isnan(sides[1]))
        fulfilled = compare(*sides)
        return np.broadcast_to(fulfilled & known, (self.count,)), np.broadcast_to(~fulfilled & known, (self.count,))

    def _membership(self, left: ast.expr, right: ast.expr, *, negate: bool) -> Truth:
        if not isinstance(left, ast.Name) or not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self._wrong(f"holds {ast.unparse(left)} in {ast.unparse(right)}", "for example snr in [0, 5]")
        name = self._name(left)
        wanted = [self._constant(item) for item in right.elts]
        texts = [item for item in wanted if isinstance(item, str)]
        numbers = [item for item in wanted if not isinstance(item, str)]
        found = np.zeros(self.count, bool)
        if texts or not wanted:
            found |= self._named(name, texts, negate=False)[0]
        if numbers:
            column = self._numbers(left)
            found |= np.isin(column, np.asarray(numbers, column.dtype))
        known = self.labels[name] >= 0 if name in self.label_names else ~np.isnan(self.values[name])
        return _where(found, known, negate=negate)

    def _named(self, name: str, wanted: list[str], *, negate: bool) -> Truth:
        """Where a label's name is (not) among those wanted, and where it is not (is)."""
        names = self.label_names.get(name)
        if names is None:
            raise self._wrong(f"compares the number {name} with text {wanted}", "a number without quotes")
        unknown = [text for text in wanted if text not in names]
        if unknown:
            raise self._wrong(f"asks label {name!r} for {unknown}, which it does not have", f"some of {names}")
        codes = self.labels[name]
        found: Mask = np.isin(codes, [names.index(text) for text in wanted])
        return _where(found, codes >= 0, negate=negate)

    def _numbers(self, node: ast.expr) -> npt.NDArray[Any]:
        """A value, or a label whose names are numbers, as numbers ``[count]``, NaN where lacking."""
        name = self._name(node)
        if name not in self.label_names:
            return self.values[name]
        try:
            table = np.array([*map(float, self.label_names[name]), np.nan])
        except ValueError as error:
            raise self._wrong(
                f"compares label {name!r} with a number", f"some of its names {self.label_names[name]}"
            ) from error
        return np.asarray(table[self.labels[name]])

    def _name(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise self._wrong(f"holds {ast.unparse(node)!r}", "the name of a label or value")
        name = self.aliases.get(node.id, node.id)
        if name not in self.label_names and name not in self.values:
            self._refuse_unquoted(name)
            raise self._wrong(
                f"names {name!r}, which is no label or value",
                f"labels {sorted(self.label_names)} or values {sorted(self.values)}",
            )
        return name

    def _refuse_unquoted(self, word: str) -> None:
        """A name of a label that stands without quotes is told so."""
        owner = next((label for label, names in self.label_names.items() if word in names), None)
        if owner is not None:
            raise self._wrong(
                f"holds {word} without quotes", f"names of label {owner} in quotes", f'did you mean "{word}"?'
            )

    def _constant(self, node: ast.expr) -> str | float:
        sign = 1.0
        while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign, node = (-sign if isinstance(node.op, ast.USub) else sign), node.operand
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and sign == 1.0:
                return node.value
            if isinstance(node.value, int | float) and not isinstance(node.value, bool):
                return sign * node.value
        if isinstance(node, ast.Name):
            self._refuse_unquoted(node.id)
        raise self._wrong(f"holds {ast.unparse(node)!r}", "a number or quoted text")


def _where(found: Mask, known: Mask, *, negate: bool) -> Truth:
    true, false = found & known, ~found & known
    return (false, true) if negate else (true, false)
