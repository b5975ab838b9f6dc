"""Chat templates of model files: programs that a stranger wrote, run where they can reach nothing and cost little.

A GGUF brings a template in Jinja. Jinja's sandbox keeps it from Python's insides, and from changing what it is given;
but a sandbox alone lets it count to 10^12 or make a text of a terabyte, and then no request of that model is answered
any more. So each rendering has a budget: every turn of a loop, every call, every character made, compared or searched
takes of it, and what a single operation makes is bounded. Time is not measured: the same template ends at the same
place everywhere.
"""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from types import NoneType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .template_costs import (
    CHARACTERS,
    MOST_ITEMS,
    TooCostly,
    check_format,
    check_indent,
    check_join,
    check_method,
    check_repetition,
    check_replace,
    longest_text,
    searched,
    size,
    to_json,
)

# The longest templates that are in use have about 20,000 characters.
MOST_SOURCE = 128 * 1024
# What a whole rendering may take, two seconds: a turn of a loop, a call, an item take 1, a character a sixty-fourth.
BUDGET = 2_000_000

_SIZING = frozenset({"batch", "center", "indent", "slice", "truncate", "wordwrap"})
_WRITING = frozenset({"join", "pprint", "string", "tojson"})
# What compares or hashes all that is in what it is given.
_DEEP = frozenset({"dictsort", "groupby", "max", "min", "sort", "sum", "unique"})
_DEEP_TESTS = frozenset(
    {"!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le"}
)
_DEEP_TESTS |= {"lessthan", "lower", "lt", "ne", "upper"}
_USELESS = ("striptags", "urlize", "xmlattr")
# Methods that no template needs: they make bytes, which nothing here counts, or take the square of what they are given.
_USELESS_METHODS = frozenset({"encode", "striptags", "to_bytes"})


class _Generation(Extension):
    """Reads `{% generation %}…{% endgeneration %}`, which marks answers for training, as what stands in it."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands between the tags."""
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a budget. One rendering at a time."""

    # None of these is worked out beforehand either: `9 ** 9 ** 9` would be when the template is read.
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            loader=jinja2.BaseLoader(),
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=self.shown,
        )
        self.begin()
        del self.globals["lipsum"]
        # As transformers writes JSON: no escapes that HTML would need.
        filters = {name: filter_ for name, filter_ in self.filters.items() if name not in _USELESS}
        filters["tojson"] = to_json
        self.filters = {name: self._bounded(name, filter_) for name, filter_ in filters.items()}
        self.tests = {
            name: self._comparing(test) if name in _DEEP_TESTS else test for name, test in self.tests.items()
        }

    # --- the budget -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a rendering."""
        self._left = float(BUDGET)
        # By its id, a list with what it weighs; kept, so that no other gets its id.
        self._weighed: dict[int, tuple[Any, float]] = {}

    def tick(self, cost: float = 1.0) -> bool:
        """Take of what is left; stands in every loop."""
        self._left -= cost
        if self._left < 0:
            raise TooCostly("it takes too long")
        return True

    def made(self, value: Any) -> Any:
        """Take what a new value costs; returns it."""
        if isinstance(value, (list, tuple, dict, range)):
            self.tick(1 + len(value))
            self._weight(value)
            if isinstance(value, dict):
                # Its keys were hashed.
                self.tick(sum(map(self._weight, value)))
        elif not isinstance(value, Namespace):
            self.tick(size(value))
        return value

    def shown(self, value: Any) -> Any:
        """Take what it costs to write a value; returns it."""
        self.tick(self._weight(value))
        return value

    def compared(self, value: Any) -> Any:
        """Take what it costs to compare, search or hash a value; returns it, a list where it was a generator."""
        if isinstance(value, (str, int)):
            self.tick(size(value))
            return value
        found = list(value) if isinstance(value, Iterator) else value
        self.tick(self._weight(found) + (len(found) if isinstance(found, range) else 0))
        return found

    def cut(self, value: Any) -> Any:
        """Take what it costs to copy a part of a value; returns it."""
        if isinstance(value, (str, list, tuple)):
            self.tick(1 + len(value) / CHARACTERS)
        return value

    def _writable(self, values: Iterable[Any]) -> int:
        """Return how many characters the longest of some values has when it is written out."""
        return max((longest_text(value, self._weight(value)) for value in values), default=0)

    def _weight(self, value: Any) -> float:
        """Return what a value costs that is written out: lists may have the same list in them many times."""
        if not isinstance(value, (list, tuple, dict)):
            return size(value)
        known = self._weighed.get(id(value))
        if known is None:
            items = [*value, *value.values()] if isinstance(value, dict) else value
            if len(items) > MOST_ITEMS:
                raise TooCostly("a list that is too long")
            known = value, 1 + sum(map(self._weight, items))
            if known[1] > BUDGET:
                raise TooCostly("a value that is too large")
            self._weighed[id(value)] = known
        return known[1]

    # --- what a template can do -------------------------------------------------------------------------------

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute, where the result cannot be too large."""
        size(left)
        size(right)
        if operator == "*":
            check_repetition(left, right)
        elif operator == "**" and not -CHARACTERS <= right <= CHARACTERS:
            raise TooCostly("a power that is too large")
        elif operator == "%" and isinstance(left, str):
            check_format(left, self._writable([right]))
        return self.made(_OPERATORS[operator](left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call, where the result cannot be too large."""
        owner = getattr(__obj, "__self__", None)
        if owner is __self:  # what `_Counted` put there
            return __obj(*args)
        __self.tick()
        if isinstance(owner, (str, list, tuple, dict)):
            args = tuple(map(__self.compared, args))
            given = [*args, *map(__self.compared, kwargs.values())]
            if isinstance(owner, str):
                check_method(__obj.__name__, owner, given)
                __self.tick(searched(__obj.__name__, owner, given))
            elif __obj.__name__ in ("count", "index"):
                __self.compared(owner)
        elif getattr(__obj, "__name__", "") == "changed":  # of a loop
            args = tuple(map(__self.compared, args))
        return __self.made(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return whether a template may see it."""
        return attr not in _USELESS_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return what stands for a text's method `format`, where what it makes has a bound."""
        safe = super().wrap_str_format(value)
        if safe is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            check_format(value.__self__, self._writable([*args, *kwargs.values()]))
            return safe(*args, **kwargs)

        return bounded

    def join(self, *parts: Any) -> str:
        """Return what `~` makes of its parts."""
        self.tick(sum(map(self._weight, parts)))
        text = "".join(map(str, parts))
        size(text)
        return text

    def _comparing(self, test: Any) -> Any:
        @functools.wraps(test)
        def comparing(*args: Any) -> Any:
            return test(*map(self.compared, args))

        return comparing

    def _bounded(self, name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(filter_)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            if name in _DEEP or name == "join":
                args = tuple(map(self.compared, args))
            given = [*args, *kwargs.values()]
            for value in given:
                # Many go through all of what they are given.
                self.tick(len(value) / CHARACTERS if isinstance(value, (str, list, tuple, dict)) else 1)
            texts = [one for one in given if isinstance(one, str)]
            if name in _WRITING:
                self.tick(sum(map(self._weight, given)))
            if name == "join":
                check_join(given)
            elif name in _SIZING and any(isinstance(one, int) and one > MOST_ITEMS for one in given):
                raise TooCostly("a size that is too large")
            elif name == "indent":
                check_indent(given)
            elif name == "format":
                check_format(args[0], self._writable(given[1:]))
            elif name == "replace":
                check_replace(texts)
            elif name == "trim" and texts:
                self.tick(searched("strip", texts[0], texts[1:]))
            elif name == "sum" and not all(isinstance(one, (int, float, str, NoneType)) for one in given[2:]):
                raise TooCostly("a sum of lists")
            elif name == "round" and any(isinstance(one, int) and abs(one) > CHARACTERS for one in given[1:]):
                raise TooCostly("a precision that is too large")
            return self.made(filter_(*args, **kwargs))

        return bounded


class ChatTemplate:
    """A model file's template. Safe to use from several threads; one conversation is rendered at a time.

    Args:
        source: As the file has it.
        bos, eos: The text of the model's first and last token.

    Raises:
        jinja2.TemplateError: It is no template, or one that is too large to read.
    """

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        if len(source) > MOST_SOURCE:
            raise TooCostly(f"it has more than {MOST_SOURCE} characters")
        self._rendering = threading.Lock()
        self._environment = _Sandbox()
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            tree = _Counted(self._environment).visit(self._environment.parse(source))
            self._template = self._environment.from_string(tree)
        except (RecursionError, MemoryError, OverflowError) as exc:
            raise TooCostly(f"it cannot be read ({type(exc).__name__})") from None
        except (SyntaxError, ValueError) as exc:  # of the Python that Jinja makes of it
            raise jinja2.TemplateError(f"it cannot be read ({type(exc).__name__})") from None

    def render(self, messages: list[dict[str, Any]], tools: Any) -> str:
        """Return the prompt, with the beginning of the answer.

        Args:
            messages: In OpenAI's form.
            tools: Likewise; None where there are none.

        Raises:
            TooCostly: It takes too long, or makes too much.
            jinja2.TemplateError, ValueError, TypeError: It does not take these messages.
        """
        environment = self._environment
        values = {
            "messages": messages,
            "tools": tools,
            "raise_exception": _refuse,
            "add_generation_prompt": True,
            "functions": None,
            "function_call": None,
            "strftime_now": _now,
        }
        pieces: list[str] = []
        try:
            # What is left of the budget is one rendering's.
            with self._rendering:
                environment.begin()
                for piece in self._template.generate(values, **self._tokens):
                    environment.tick(size(piece))
                    pieces.append(piece)
        except (RecursionError, MemoryError, OverflowError) as exc:
            raise TooCostly(f"it asks for too much ({type(exc).__name__})") from None
        return "".join(pieces)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "**": operator.pow,
    "%": operator.mod,
}


class _Counted(NodeTransformer):
    """Has every loop tick, and counts what `~`, lists and dictionaries that stand in a template make."""

    def __init__(self, environment: jinja2.Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - as Jinja calls it
        """Return the loop, with a tick in it that takes what its own words cost too."""
        words = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        tick = self._call("tick", nodes.Const(1.0 + words / CHARACTERS), at=node)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        if node.test is not None:
            again = self._call("tick", nodes.Const(1.0), at=node)
            node.test = nodes.And(again, node.test, lineno=node.lineno)
        return node.set_environment(self._environment)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """Return a call of `join`."""
        self.generic_visit(node)
        return self._call("join", *node.nodes, at=node)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        """Return the list, counted."""
        self.generic_visit(node)
        return self._call("made", node, at=node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        """Return the dictionary, counted."""
        self.generic_visit(node)
        return self._call("made", node, at=node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        """Return the tuple, counted, where it is one and not the names of a loop."""
        self.generic_visit(node)
        return node if node.ctx == "store" else self._call("made", node, at=node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """Return the comparison, with what is compared counted."""
        self.generic_visit(node)
        node.expr = self._compared(node.expr)
        for operand in node.ops:
            operand.expr = self._compared(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """Return it, with what is cut or hashed counted."""
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = self._call("cut", node.node, at=node)
        else:
            node.arg = self._compared(node.arg)
        return node

    def _compared(self, node: nodes.Expr) -> nodes.Expr:
        return node if isinstance(node, nodes.Const) else self._call("compared", node, at=node)

    def _call(self, name: str, *args: nodes.Expr, at: nodes.Node) -> nodes.Call:
        called = nodes.EnvironmentAttribute(name)
        made = nodes.Call(called, list(args), [], None, None, lineno=at.lineno)
        made.set_environment(self._environment)
        return made


# --- what templates are given ---------------------------------------------------------------------------------


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _now(form: str) -> str:
    check_format(form, CHARACTERS)
    return datetime.now().strftime(form)
