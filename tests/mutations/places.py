"""Break a formula on purpose: find one place in a function's syntax tree and change it.

A break names its function without the module (`kl_from_difference`, `Reverse.kl_sum`), and its place by what stands
there: a call, an operation, a number, a comparison. So it survives reformatting, a move of the function to another file
and the renaming of its local variables. A place that is missing or that is there twice is an error; `[i]` takes the
i-th, in reading order.

    call("log").drop()                     log(x) → x
    call("expm1").to("exp")                expm1(x) → exp(x)
    operation("+")[1].keep_left()          the second sum loses its last term
    number(0.5).to(1.0)
    call("noised").argument(2).becomes("s")
    field("sigma").power(2)                t.sigma → t.sigma ** 2
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable

from tests.mutations.functions import walk

OPERATIONS = {
    "+": ast.Add, "-": ast.Sub, "*": ast.Mult, "/": ast.Div, "//": ast.FloorDiv, "%": ast.Mod, "**": ast.Pow,
    "@": ast.MatMult, "&": ast.BitAnd, "|": ast.BitOr, "^": ast.BitXor, "<<": ast.LShift, ">>": ast.RShift,
}  # fmt: skip
COMPARISONS = {
    "<": ast.Lt, "<=": ast.LtE, ">": ast.Gt, ">=": ast.GtE, "==": ast.Eq, "!=": ast.NotEq,
    "is": ast.Is, "is not": ast.IsNot, "in": ast.In, "not in": ast.NotIn,
}  # fmt: skip

Change = Callable[[ast.expr], ast.expr]


class Edit:
    """One change at one place."""

    def __init__(self, place: Place, name: str, change: Change) -> None:
        self.place, self.name, self.change = place, name, change

    def __repr__(self) -> str:
        return f"{self.place}.{self.name}"

    def apply(self, definition: ast.FunctionDef) -> ast.FunctionDef:
        """The definition changed. AssertionError unless the place is there exactly once."""
        nodes = self.place.find(definition)
        assert len(nodes) == 1, f"{definition.name} has {self.place} {len(nodes)} times: update the break"
        variables = {getattr(n, "id", None) or getattr(n, "arg", None) for n in ast.walk(definition)}
        node = self.change(copy.deepcopy(nodes[0]))
        if isinstance(node, ast.Name):
            assert node.id in variables, f"{definition.name} has no {node.id}: update the break"
        return _Replace(nodes[0], node).visit(definition)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.expr, new: ast.expr) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


class Place:
    """Expressions of a function, found step by step; the last call says what becomes of the one that is found."""

    def __init__(self, name: str, find: Callable[[ast.AST], list[ast.expr]]) -> None:
        self.name, self.find = name, find

    def __repr__(self) -> str:
        return self.name

    def _then(self, name: str, step: Callable[[ast.expr], ast.expr]) -> Place:
        return Place(f"{self.name}.{name}", lambda tree: [step(node) for node in self.find(tree)])

    def __getitem__(self, index: int) -> Place:
        return Place(f"{self.name}[{index}]", lambda tree: self.find(tree)[slice(index, index + 1 or None)])

    def within(self, other: Place) -> Place:
        """Those of these that lie inside the other place."""
        return Place(f"{self.name}.within({other})", lambda tree: [n for o in other.find(tree) for n in self.find(o)])

    def argument(self, which: int) -> Place:
        """Of a call; or a member of a tuple or list."""
        return self._then(f"argument({which})", lambda node: _parts(node)[which])

    def receiver(self) -> Place:
        """What a method is called on, or a field is read of."""
        return self._then("receiver()", lambda node: (node.func if isinstance(node, ast.Call) else node).value)

    def left(self) -> Place:
        return self._then("left()", lambda operation: operation.left)

    def right(self) -> Place:
        return self._then("right()", lambda operation: operation.right)

    # ------------------------------------------------------------ what becomes of it
    def edit(self, change: Change, name: str = "edit") -> Edit:
        return Edit(self, name, change)

    def drop(self) -> Edit:
        """f(x) → x, x.f() → x, x.f → x, −x → x."""
        return self.edit(_without_call, "drop()")

    def keep_left(self) -> Edit:
        return self.edit(lambda node: node.left, "keep_left()")

    def keep_right(self) -> Edit:
        return self.edit(lambda node: node.right, "keep_right()")

    def keep_argument(self, which: int) -> Edit:
        """x.f(y) → y."""
        return self.edit(lambda node: _parts(node)[which], f"keep_argument({which})")

    def without(self, which: int) -> Edit:
        """f(x, y) → f(x)."""
        return self.edit(lambda node: _parts(node).pop(which) and node, f"without({which})")

    def to(self, other: float | str) -> Edit:
        """Another number, operation, comparison, function or field in its stead."""
        return self.edit(lambda node: _changed(node, other), f"to({other!r})")

    def becomes(self, other: float | str) -> Edit:
        """The whole expression is a number, or a variable of the function."""
        return self.edit(lambda node: _atom(other), f"becomes({other!r})")

    def times(self, factor: float) -> Edit:
        return self.edit(lambda node: ast.BinOp(ast.Constant(factor), ast.Mult(), node), f"times({factor})")

    def plus(self, term: float) -> Edit:
        return self.edit(lambda node: ast.BinOp(node, ast.Add(), ast.Constant(term)), f"plus({term})")

    def power(self, exponent: float) -> Edit:
        return self.edit(lambda node: ast.BinOp(node, ast.Pow(), ast.Constant(exponent)), f"power({exponent})")

    def negated(self) -> Edit:
        return self.edit(lambda node: ast.UnaryOp(ast.USub(), node), "negated()")

    def transposed(self) -> Edit:
        return self.edit(lambda node: ast.Attribute(node, "mT", ast.Load()), "transposed()")

    def reversed(self) -> Edit:
        backwards = ast.Slice(step=ast.UnaryOp(ast.USub(), ast.Constant(1)))
        return self.edit(lambda node: ast.Subscript(node, backwards, ast.Load()), "reversed()")

    def swapped(self, one: int = 0, other: int = 1) -> Edit:
        """Two arguments of a call or elements of a tuple change places; or the two sides of an operation."""
        return self.edit(lambda node: _swapped(node, one, other), f"swapped({one}, {other})")


def _where(node: ast.expr) -> tuple[int, int]:
    """Reading order: an operation stands where its operator does, a call where its function's name ends."""
    if isinstance(node, ast.BinOp):
        return node.right.lineno, node.right.col_offset
    if isinstance(node, ast.Compare):
        return node.comparators[0].lineno, node.comparators[0].col_offset
    if isinstance(node, ast.Call):
        return node.func.end_lineno or 0, node.func.end_col_offset or 0
    return node.end_lineno or 0, node.end_col_offset or 0


def _place(name: str, wanted: Callable[[ast.AST], bool]) -> Place:
    return Place(name, lambda tree: sorted((n for n in walk(tree) if wanted(n)), key=_where))


def called(node: ast.AST) -> str | None:
    """The name by which a call calls: `f(…)` and `a.b.f(…)` are "f"."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", None) or getattr(node.func, "attr", None)
    return None


def call(function: str) -> Place:
    """Calls of a function or method by its name, whatever it is called on."""
    return _place(f"call({function!r})", lambda n: called(n) == function)


def operation(symbol: str) -> Place:
    return _place(f"operation({symbol!r})", lambda n: isinstance(n, ast.BinOp) and type(n.op) is OPERATIONS[symbol])


def comparison(symbol: str) -> Place:
    wanted = COMPARISONS[symbol]
    return _place(f"comparison({symbol!r})", lambda n: isinstance(n, ast.Compare) and type(n.ops[0]) is wanted)


def number(value: float) -> Place:
    return _place(f"number({value})", lambda n: is_number(n) and n.value == value)


def text(value: str) -> Place:
    """A string that is no docstring's, such as the name of a kind or a key of a foreign file."""
    return _place(f"text({value!r})", lambda n: isinstance(n, ast.Constant) and n.value == value)


def field(name: str) -> Place:
    """An attribute that is read and not called: `t.sigma`."""
    return Place(f"field({name!r})", lambda tree: _fields(tree, name))


def letter(name: str) -> Place:
    """A variable by one of the letters that formula and body share, where it is read: x, z, eps, s, t."""
    return _place(
        f"letter({name!r})", lambda n: isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)
    )


def negation() -> Place:
    return _place("negation()", lambda n: isinstance(n, ast.UnaryOp) and isinstance(n.op, ast.USub))


def choice() -> Place:
    """`a if condition else b`."""
    return _place("choice()", lambda n: isinstance(n, ast.IfExp))


def display(members: int) -> Place:
    """A tuple or list of so many members that is written out."""
    return _place(f"display({members})", lambda n: isinstance(n, ast.Tuple | ast.List) and _read(n, members))


def subscript() -> Place:
    """`a[i]` where it is read; `to("1:2")` gives it another index."""
    return _place("subscript()", lambda n: isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Load))


def result() -> Place:
    """What the function returns."""
    return Place("result()", lambda tree: [n.value for n in walk(tree) if isinstance(n, ast.Return) and n.value])


def _read(node: ast.Tuple | ast.List, members: int) -> bool:
    return isinstance(node.ctx, ast.Load) and len(node.elts) == members


def is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _fields(tree: ast.AST, name: str) -> list[ast.expr]:
    methods = {id(n.func) for n in walk(tree) if isinstance(n, ast.Call)}
    nodes = [n for n in walk(tree) if isinstance(n, ast.Attribute) and n.attr == name and id(n) not in methods]
    return sorted(nodes, key=_where)


def _without_call(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.UnaryOp):
        return node.operand
    if isinstance(node, ast.Attribute):
        return node.value
    assert isinstance(node, ast.Call)
    method = isinstance(node.func, ast.Attribute) and not _is_module(node.func.value)
    return node.func.value if method else node.args[0]


def _is_module(node: ast.expr) -> bool:
    root = node
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in ("torch", "math", "np", "numpy", "F", "itertools")


def _changed(node: ast.expr, other: float | str) -> ast.expr:
    if isinstance(node, ast.Constant):
        return ast.Constant(other)
    assert isinstance(other, str)
    if isinstance(node, ast.BinOp):
        node.op = OPERATIONS[other]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = COMPARISONS[other]()
    elif isinstance(node, ast.Subscript):
        node.slice = ast.parse(f"_[{other}]", mode="eval").body.slice
    elif isinstance(node, ast.Attribute):
        node.attr = other
    elif isinstance(node, ast.Name):
        return _atom(other)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node.func.attr = other
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        node.func.id = other
    else:
        raise AssertionError(f"{ast.unparse(node)} cannot become {other}")
    return node


def _atom(other: float | str) -> ast.expr:
    return ast.Name(other, ast.Load()) if isinstance(other, str) else ast.Constant(other)


def _parts(node: ast.expr) -> list[ast.expr]:
    return node.args if isinstance(node, ast.Call) else node.elts


def _swapped(node: ast.expr, one: int, other: int) -> ast.expr:
    if isinstance(node, ast.BinOp):
        node.left, node.right = node.right, node.left
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
    else:
        parts = _parts(node)
        parts[one], parts[other] = parts[other], parts[one]
    return node
