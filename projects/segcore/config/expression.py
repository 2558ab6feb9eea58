"""Integer lists written as a Python expression, evaluated without running Python.

Official Mask2Former files give ``MIN_SIZE_TRAIN`` as
``!!python/object/apply:eval ["[int(x * 0.1 * 640) for x in range(5, 21)]"]``.
"""

import ast
import operator
import warnings
from collections.abc import Mapping

MAX_SOURCE_LENGTH = 200
MAX_ITEMS = 1000
MAX_NUMBER = 10**9

_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS = {"int": int, "float": float, "round": round}


def evaluate_int_list(source: str) -> list[int]:
    """Evaluate a list of integers: ``[480, 512]`` or ``[int(1.5 * x) for x in range(5, 21)]``.

    Elements consist of numbers, ``+ - * / // %``, ``int``, ``float``, ``round`` and, in a
    comprehension over one ``range``, its variable. Source, lists and numbers are bounded.

    Raises:
        ValueError: any other expression; the message is a phrase.
    """
    if len(source) > MAX_SOURCE_LENGTH:
        raise ValueError(f"expected at most {MAX_SOURCE_LENGTH} characters, got {len(source)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError("expected a Python expression") from None
    try:
        values = _evaluate_list(tree)
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    if not all(type(value) is int for value in values):
        raise ValueError("expected integers: use int(...) or //")
    return values


def _evaluate_list(node: ast.expr) -> list[int | float]:
    match node:
        case ast.List(elts) | ast.Tuple(elts):
            return [_number(element, {}) for element in elts]
        case ast.ListComp(
            element, [ast.comprehension(target=ast.Name(variable), iter=items, ifs=[], is_async=0)]
        ):
            return [_number(element, {variable: value}) for value in _range(items)]
    raise ValueError("expected a list of numbers, or a list comprehension over range(...)")


def _range(node: ast.expr) -> range:
    match node:
        case ast.Call(ast.Name("range"), [_, *_] as arguments, []) if len(arguments) <= 3:
            bounds = [_number(argument, {}) for argument in arguments]
        case _:
            raise ValueError("expected the comprehension to run over range(...)")
    if not all(type(bound) is int for bound in bounds) or bounds[2:] == [0]:
        raise ValueError("range: expected integers, and a step other than 0")
    items = range(*bounds)
    if len(items) > MAX_ITEMS:
        raise ValueError(f"range: expected at most {MAX_ITEMS} numbers, got {len(items)}")
    return items


def _number(node: ast.expr, variables: Mapping[str, int]) -> int | float:
    match node:
        case ast.Constant(int() | float() as value) if not isinstance(value, bool):
            result = value
        case ast.Name(name) if name in variables:
            result = variables[name]
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            result = _UNARY[type(op)](_number(operand, variables))
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            result = _BINARY[type(op)](_number(left, variables), _number(right, variables))
        case ast.Call(ast.Name(name), [argument], []) if name in _FUNCTIONS:
            result = _FUNCTIONS[name](_number(argument, variables))
        case _:
            raise ValueError(
                f"{type(node).__name__} is not allowed: only numbers, + - * / // %, "
                f"{', '.join(_FUNCTIONS)} and the variable of the comprehension are"
            )
    if not abs(result) <= MAX_NUMBER:  # NaN neither
        raise ValueError(f"expected numbers up to {MAX_NUMBER}")
    return result
