"""Chat templates of model files: programs that a stranger wrote, run where they can reach nothing and cost little.

A GGUF brings a template in Jinja. Jinja's sandbox keeps it from Python's insides, and from changing what it is given;
but a sandbox alone lets it count to 10^12 or make a text of a terabyte, and then no request of that model is answered
any more. So each rendering has a budget: every turn of a loop, every call and every character made takes of it, and
what a single operation makes is bounded. Time is not measured: the same template ends at the same place everywhere.
"""

from __future__ import annotations

import functools
import json
import operator
import re
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

# The longest templates that are in use have about 20,000 characters.
MOST_SOURCE = 128 * 1024
# What one operation may make: characters of a text, more than the largest body has; items of a list; bits of a number.
MOST_CHARACTERS, MOST_ITEMS, MOST_BITS = 16 * 1024 * 1024, 1_000_000, 4096
# What a whole rendering may take, two seconds: a turn of a loop, a call, an item take 1, a character a sixty-fourth.
BUDGET = 2_000_000
_CHARACTERS = 64

_UNBOUNDED = re.compile(r"\d{6}|\*|\{[^{}]*\{")  # widths of six digits, and widths that come from elsewhere
_SIZING = frozenset({"batch", "center", "indent", "slice", "truncate", "wordwrap"})
_USELESS = ("striptags", "urlize", "xmlattr")


class TooCostly(jinja2.TemplateError):
    """A template that takes too long, or makes too much."""


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
        filters["tojson"] = _tojson
        self.filters = {name: self._bounded(name, filter_) for name, filter_ in filters.items()}

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
        elif not isinstance(value, Namespace):
            self.tick(_size(value))
        return value

    def shown(self, value: Any) -> Any:
        """Take what it costs to write a value; returns it."""
        self.tick(self._weight(value))
        return value

    def _weight(self, value: Any) -> float:
        """Return what a value costs that is written out: lists may have the same list in them many times."""
        if not isinstance(value, (list, tuple, dict)):
            return _size(value)
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
        _size(left)
        _size(right)
        if operator == "*":
            _check_repetition(left, right)
        elif operator == "**" and not -_CHARACTERS <= right <= _CHARACTERS:
            raise TooCostly("a power that is too large")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return self.made(_OPERATORS[operator](left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call, where the result cannot be too large."""
        __self.tick()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_method(__obj.__name__, owner, [*args, *kwargs.values()])
        return __self.made(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return what stands for a text's method `format`, where no width in the text is without a bound."""
        safe = super().wrap_str_format(value)
        if safe is not None:
            _check_format(value.__self__)
        return safe

    def join(self, *parts: Any) -> str:
        """Return what `~` makes of its parts."""
        self.tick(sum(map(self._weight, parts)))
        text = "".join(map(str, parts))
        _size(text)
        return text

    def _bounded(self, name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(filter_)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            for value in given:
                # Many go through all of what they are given.
                self.tick(len(value) / _CHARACTERS if isinstance(value, (str, list, tuple, dict)) else 1)
            if name in ("string", "pprint", "tojson", "join"):
                self.tick(sum(map(self._weight, given)))
            elif name in _SIZING and any(isinstance(one, int) and one > MOST_ITEMS for one in given):
                raise TooCostly("a size that is too large")
            elif name == "format":
                _check_format(args[0])
            elif name == "replace":
                _check_replace([one for one in given if isinstance(one, str)])
            elif name == "round" and any(
                isinstance(one, int) and abs(one) > _CHARACTERS for one in given[1:]
            ):
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
                    environment.tick(_size(piece))
                    pieces.append(piece)
        except (RecursionError, MemoryError, OverflowError) as exc:
            raise TooCostly(f"it asks for too much ({type(exc).__name__})") from None
        return "".join(pieces)


# --- bounds ---------------------------------------------------------------------------------------------------


def _size(value: Any) -> float:
    """Return what it costs to make or write a value that is no list, where it is not too large."""
    if isinstance(value, (str, bytes)):
        if len(value) > MOST_CHARACTERS:
            raise TooCostly("a text that is too long")
        return 1 + len(value) / _CHARACTERS
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise TooCostly("a number that is too large")
    if isinstance(value, Namespace):
        # Written out, with others in it that have others in them, it would have no bound; and nobody reads one.
        return BUDGET + 1
    return 1.0


def _check_repetition(left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, (str, bytes, list, tuple)) and isinstance(times, int):
            most = MOST_CHARACTERS if isinstance(many, (str, bytes)) else MOST_ITEMS
            if len(many) * times > most:
                raise TooCostly("a repetition that is too long")


def _check_format(text: Any) -> None:
    if isinstance(text, str) and _UNBOUNDED.search(text):
        raise TooCostly("a width without a bound")


def _check_replace(texts: list[str]) -> None:
    if len(texts) >= 3:
        text, old, new = texts[:3]
        found = text.count(old) if old else len(text) + 1
        if found * len(new) > MOST_CHARACTERS:
            raise TooCostly("a replacement that is too long")


def _check_method(name: str, owner: str, given: list[Any]) -> None:
    if any(isinstance(one, int) and one > MOST_ITEMS for one in given):
        raise TooCostly("a size that is too large")
    if name == "replace":
        _check_replace([owner, *(one for one in given if isinstance(one, str))])
    elif name == "expandtabs":
        _check_repetition(
            "\t" * owner.count("\t"), max((one for one in given if isinstance(one, int)), default=8)
        )
    elif name == "join" and given and isinstance(given[0], (list, tuple, str, range)):
        _check_repetition(owner, len(given[0]))


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
        tick = self._call("tick", nodes.Const(1.0 + words / _CHARACTERS), at=node)
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

    def _call(self, name: str, *args: nodes.Expr, at: nodes.Node) -> nodes.Call:
        called = nodes.EnvironmentAttribute(name)
        made = nodes.Call(called, list(args), [], None, None, lineno=at.lineno)
        made.set_environment(self._environment)
        return made


# --- what templates are given ---------------------------------------------------------------------------------


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _now(form: str) -> str:
    _check_format(form)
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not 0 <= indent <= _CHARACTERS:
        raise TooCostly("an indent that is too large")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
