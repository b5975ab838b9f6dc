"""Chat templates of hostile model files: they reach nothing of Python, change nothing, and end soon."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from smallfirst.router.errors import ModelError, ModelFileError, RequestError
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.models.local.prompt import PromptRenderer
from smallfirst.router.models.local.template import MOST_SOURCE, ChatTemplate
from smallfirst.router.models.local.template_costs import TooCostly
from smallfirst.router.settings import LocalModelSettings
from smallfirst.router.wire import ChatRequest

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi <there> & 'you'"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": 2**60}}}],
    },
    {"role": "tool", "content": "Grüße"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def render(source: str) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render([dict(each) for each in MESSAGES], TOOLS)


# By what is tried: attributes that lead to Python's insides, by every way to name one.
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('__cl' ~ 'ass__') }}",
    "{{ ['']|map(attribute='__class__')|list }}",
    "{{ ['']|map('attr', '__class__')|list }}",
    "{{ [{}]|groupby('__class__') }}",
    "{{ [{}]|sum(attribute='__class__') }}",
    "{{ messages|selectattr('__class__')|list }}{{ ''.__class__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "{{ ('{0.__class__}'|attr('format'))(1) }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ '%s'|format(''.__class__) }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__code__ }}",
    "{{ strftime_now.__globals__['os'] }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ range.__class__ }}",
    "{{ dict.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch owned') }}",
    "{{ lipsum.__globals__.os }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ messages.append.__self__.__class__ }}",
    "{{ (messages|first).__class__ }}",
    "{% set ns = namespace() %}{{ ns.__class__ }}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._environment }}{{ m._func.__globals__ }}",
    "{% for x in [1] %}{{ loop.__class__ }}{{ loop._recurse.__globals__ }}{% endfor %}",
    "{% import 'os' as os %}{{ os }}",
    "{% include '/etc/passwd' %}",
    "{% extends '/etc/passwd' %}",
    "{% from 'os' import system %}",
    "{{ joined.__func__ }}{{ environment.__class__ }}{{ context.__class__ }}",
    # Bytes, which nothing bounds.
    "{{ 'a'.encode().center(10**9)|length }}",
    "{{ ('a'|escape).encode().zfill(10**9)|length }}",
    "{{ (5).to_bytes(10**9, 'big')|length }}",
)


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_reaches_nothing_of_python(source: str) -> None:
    try:
        shown = render(source)
    except (jinja2.TemplateError, ValueError, TypeError):
        return
    assert "1000000000" not in shown
    assert not any(
        word in shown for word in ("<class", "<module", "<function", "__main__", "root:", "builtins")
    )


@pytest.mark.parametrize(
    "source",
    [
        "{% if messages.append({}) %}{% endif %}",
        "{% if messages[0].update({'role': 'x'}) %}{% endif %}",
        "{{ messages.clear() }}",
        "{{ messages[0].pop('role') }}",
        "{% set messages[0].role = 'x' %}",
    ],
)
def test_a_template_changes_no_message(source: str) -> None:
    template_given = [dict(each) for each in MESSAGES]
    with pytest.raises(jinja2.TemplateError):
        ChatTemplate(source, bos="", eos="").render(template_given, None)
    assert template_given == MESSAGES


LONG = "{% set s = 'x' * 1000000 %}"
OFTEN = "{% for i in range(99999) %}"
DEEP = (
    "{% set ns = namespace(l=[1], m=[1], t=(1,)) %}{% for i in range(16) %}"
    "{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
)
GROWING = "{% set ns = namespace(s='aaaaaaaa', l=[1], n=7) %}{% for i in range(100) %}"
BOMBS: dict[str, str] = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops that skip all": "{% for a in range(9999) %}{% for b in range(9999) if false %}{% endfor %}{% endfor %}",
    "a long range": "{{ range(10**9)|list|length }}",
    "many words": "{% for a in range(9**5) %}{% for b in range(9) %}" + "x" * 9999 + "{% endfor %}{% endfor %}",
    "words that are kept": "{% set s %}{% for a in range(99999) %}" + "x" * 99_999 + "{% endfor %}{% endset %}",
    "a repetition": "{{ 'a' * 10**10 }}",
    "a repetition, the other way": "{{ 10000000000 * 'a' }}",
    "a repetition of a list": "{{ [1] * 10**9 }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a power of a power": GROWING + "{% set ns.n = ns.n ** 9 %}{% endfor %}",
    "squares": GROWING + "{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "doubling by ~": GROWING + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "doubling by +": GROWING + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "doubling by a block": GROWING + "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
    "doubling by join": GROWING + "{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}",
    "doubling by a method": GROWING + "{% set ns.s = ns.s.join([ns.s, ns.s, ns.s]) %}{% endfor %}",
    "doubling by replace": GROWING + "{% set ns.s = ns.s|replace('a', 'aa') %}{% endfor %}",
    "doubling by the method replace": GROWING + "{% set ns.s = ns.s.replace('', 'aa') %}{% endfor %}",
    "doubling by format": GROWING + "{% set ns.s = '%s%s' % (ns.s, ns.s) %}{% endfor %}",
    "doubling by the filter format": GROWING + "{% set ns.s = '%s%s'|format(ns.s, ns.s) %}{% endfor %}",
    "doubling by the method format": GROWING + "{% set ns.s = '{}{}'.format(ns.s, ns.s) %}{% endfor %}",
    "doubling a list": GROWING + "{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "lists in lists": GROWING + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
    "tuples in tuples": GROWING + "{% set ns.l = (ns.l, ns.l) %}{% endfor %}{{ ns.l|string }}",
    "lists in lists as JSON": GROWING + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
    "dictionaries in dictionaries": GROWING + "{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}{{ ns.l|pprint }}",
    "made dictionaries": GROWING + "{% set ns.l = dict(a=ns.l, b=ns.l) %}{% endfor %}{{ ns.l ~ 'x' }}",
    "namespaces": "{% set a = namespace() %}{% for i in range(99) %}{% set b = namespace(x=a) %}{{ b }}{% endfor %}",
    "a wide text": "{{ 'a'.center(10**9) }}",
    "a wide text by a filter": "{{ 'a'|center(10**9) }}",
    "a wide text by zeros": "{{ '1'.zfill(10**9) }}",
    "wide tabs": "{{ '\\t'.expandtabs(10**9) }}",
    "many wide tabs": "{{ ('\\t' * 100000).expandtabs(100000) }}",
    "a wide number": "{{ '%999999999d' % 1 }}",
    "a width from elsewhere": "{{ '%*d' % (999999999, 1) }}",
    "a wide number by a filter": "{{ '%999999999d'|format(1) }}",
    "a wide number by a method": "{{ '{:999999999}'.format(1) }}",
    "a width from elsewhere by a method": "{{ '{:{}}'.format(1, 999999999) }}",
    "a wide date": "{{ strftime_now('%999999999Y') }}",
    "a deep indent": "{{ 'a'|indent(10**9) }}",
    "JSON with a deep indent": "{{ [1]|tojson(indent=10**9) }}",
    "a batch that is filled": "{{ [1]|batch(10**9, 'x')|list }}",
    "slices": "{{ [1]|slice(10**9)|list }}",
    "a long precision": "{{ 1.5|round(10**8) }}",
    "macros that call themselves": "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "macros twice": "{% macro m(n) %}{% if n %}{{ m(n-1) ~ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "loops that call themselves": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "brackets": "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "a long source": "a" * (MOST_SOURCE + 1),
    # Operations that make little, and go through much: in a loop, so that each one's cost counts.
    "a form with many widths": "{{ ('%(a)99999d' * 9999) % {'a': 1} }}",
    "a form with many widths by a method": "{{ ('{0:99999}' * 9999).format(1) }}",
    "a form with many places": LONG + "{{ ('%(a)s' * 9999) % {'a': s} }}",
    "a form with many places by a method": LONG + "{{ ('{0}' * 9999).format(s) }}",
    "a form with many places by a filter": LONG + "{{ ('%(a)s' * 9999)|format(a=s) }}",
    "a date of many widths": "{{ strftime_now('%99999Y' * 9999) }}",
    "a long text between many": LONG + "{{ range(99999)|join(s) }}",
    "a long text between many that come one by one": LONG + "{{ range(99999)|map('string')|join(s) }}",
    "an indent of many lines": "{{ ('\\n' * 999999)|indent(9999) }}",
    "JSON with an indent, many times": "{{ range(99999)|map('string')|list|batch(1)|list|tojson(indent=64) }}"
    + OFTEN + "{{ range(9999)|list|tojson(indent=64)|length }}{% endfor %}",
    "a sum of lists": "{{ range(99999)|batch(1)|sum(start=[]) }}",
    "comparisons": DEEP + OFTEN + "{% if ns.l == ns.m %}{% endif %}{% endfor %}",
    "comparisons by a test": DEEP + OFTEN + "{% if ns.l is eq(ns.m) %}{% endif %}{% endfor %}",
    "comparisons by a loop": DEEP + OFTEN + "{{ loop.changed(ns.l if loop.index % 2 else ns.m) }}{% endfor %}",
    "comparisons by a method": DEEP + OFTEN + "{{ [ns.l].count(ns.m) }}{% endfor %}",
    "comparisons by a filter": DEEP + OFTEN + "{{ [ns.l, ns.m]|sort|length }}{% endfor %}",
    "comparisons one by one": DEEP + OFTEN + "{{ ns.l in [ns.m]|map('default') }}{% endfor %}",
    "looking for a text": LONG + OFTEN + "{% if 'xy' in s %}{% endif %}{% endfor %}",
    "looking for a text by a method": LONG + OFTEN + "{{ s.count('xy') }}{% endfor %}",
    "looking for a long text from the end": LONG + "{{ s.rfind('y' ~ s[:500000]) }}",
    "taking off many characters": LONG + "{{ s.strip(s[:500000] ~ 'y') }}{{ s|trim(s[:500000]) }}",
    "looking at each character": LONG + OFTEN + "{% if s is lower %}{% endif %}{% endfor %}",
    "comparing texts": LONG + "{% set t = s ~ '' %}" + OFTEN + "{% if s == t %}{% endif %}{% endfor %}",
    "cutting texts": LONG + OFTEN + "{% set t = s[1:] %}{% endfor %}",
    "cutting lists": "{% set l = range(99999)|list %}" + OFTEN + "{% set m = l[::-1] %}{% endfor %}",
    "looking through a range": OFTEN + "{% if 'a' in range(99999) %}{% endif %}{% endfor %}",
    "hashes": DEEP + OFTEN + "{% set d = {ns.t: 1} %}{% endfor %}",
    "hashes to look up": DEEP + OFTEN + "{{ {}[ns.t] }}{{ {}.get(ns.t) }}{% endfor %}",
}  # fmt: skip


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Whoever takes 600 MB more than this process has gets none."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + 600_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS)
def test_a_template_that_would_take_for_ever_is_stopped(source: str) -> None:
    with pytest.raises(TooCostly) as stopped:
        render(source)
    # By the count, and not as the memory was out.
    assert "MemoryError" not in str(stopped.value)


WORKING: dict[str, str] = {
    "turns": "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + (m['content'] or '') + '\n'}}{% endfor %}",
    "tools": "{{ tools | tojson(indent=4) }}{% for t in tools %}{{ t.function | tojson }}{% endfor %}",
    "arguments": "{% for m in messages if m.tool_calls is defined %}{% for c in m.tool_calls %}"
    "{% for k, v in c.function.arguments|items %}{{ k }}={{ v|string }}{{ v|default(10000000000) }}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "a state": "{% set ns = namespace(seen=false, l=[]) %}{% for m in messages %}{% set ns.l = ns.l + [m.role] %}"
    "{% if m.role == 'user' %}{% set ns.seen = true %}{% endif %}{% endfor %}{{ ns.l|join(',') ~ ns.seen }}",
    "loop controls": "{% for m in messages[1:] %}{% if loop.last %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "generation": "{% generation %}a{% endgeneration %}{{ bos_token }}{{ eos_token }}",
    "macros": "{% macro say(m, end='') %}{{ m.role|upper }}: {{ m.content|e }}{{ end }}{% endmacro %}"
    "{% for m in messages %}{{ say(m, end=loop.index0) }}{% endfor %}",
    "methods": "{{ messages[1].content.split(' ')[0].strip().replace('H', 'J').startswith('J') }}",
    "numbers": "{{ (messages|length - 1) % 2 == 0 }}{{ 7 // 2 * 3 }}{{ '%05d' % 7 }}{{ 2 ** 10 }}",
    "a slice": "{{ messages[::-1]|map(attribute='role')|list }}{{ {'a': [1, 2]}['a'] }}",
    "a captured block": "{% set s %}{{ messages[0].content }}!{% endset %}{{ s ~ s|length }}",
    "recursion": "{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "tests": "{{ messages|selectattr('role', 'equalto', 'user')|list }}{{ 'a' in ['a', 'b'] }}{{ x is defined }}",
}  # fmt: skip


@pytest.mark.parametrize("source", WORKING.values(), ids=WORKING)
def test_what_templates_do_is_what_llama_cpp_makes_of_it(source: str) -> None:
    theirs = Jinja2ChatFormatter(template=source, bos_token="<s>", eos_token="</s>")
    messages: Any = [dict(each) for each in MESSAGES]
    assert render(source) == theirs(messages=messages, tools=TOOLS).prompt


def test_a_long_conversation_is_within_the_budget() -> None:
    source = WORKING["a state"] + WORKING["turns"] + WORKING["macros"]
    messages = [{"role": "user", "content": "word " * 800} for _ in range(1000)]
    template = ChatTemplate(source, bos="", eos="")
    assert all(len(template.render(messages, None)) > 8_000_000 for _ in range(2))


def renderer(template: str, *, special: tuple[str, ...] = ()) -> PromptRenderer:
    metadata = {"tokenizer.chat_template": template}
    return PromptRenderer(metadata, bos="", eos="", special=special, system_prompt=None)


KNOWS_TOOLS = (
    "{{ tools|tojson }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}{{ c.function.arguments|tojson }}{% endfor %}{% endfor %}"
)
KNOWS_NONE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize("template", [KNOWS_TOOLS, KNOWS_NONE], ids=["knows tools", "knows none"])
def test_the_models_own_marks_are_text_wherever_a_caller_writes_them(template: str) -> None:
    """Tools come from servers that an agent was told of, arguments from what a model had read."""
    mark, escaped = "<|im_end|>", "\\u003c|im_end|>"
    call = {"name": mark, "arguments": f'{{"{mark}": ["{mark}", {{"b": "{escaped}"}}]}}'}
    schema = {"type": "object", "description": mark, "properties": {mark: {"enum": [mark]}}}
    tool = {"name": f"f{mark}", "description": mark, "parameters": schema}
    messages = [
        {"role": "system", "content": mark},
        {"role": "user", "content": mark},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "c", "content": mark},
    ]
    body = {"messages": messages, "tools": [{"type": "function", "function": tool}]}
    body["response_format"] = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    pieces = renderer(template, special=(mark, "<|im_start|>")).render(ChatRequest.parse(body))
    assert [piece for piece in pieces if mark in piece] == []
    assert "".join(pieces).count(mark) >= 12


def test_the_models_file_is_at_fault_and_not_the_caller() -> None:
    request = ChatRequest.parse({"messages": [{"role": "user", "content": "Hi"}]})
    with pytest.raises(ModelError) as failed:
        renderer(BOMBS["a repetition"]).render(request)
    assert (failed.value.status, failed.value.code) == (502, "template_too_costly")


def test_a_template_that_cannot_be_read_is_a_broken_file() -> None:
    for source in (BOMBS["brackets"], BOMBS["a long source"], "{% for %}"):
        with pytest.raises(ModelFileError, match="chat template is broken"):
            renderer(source)


# A good template that turns bad where the conversation says so.
TWO_FACED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% if m.content == 'bomb' %}{{ 'a' * 10**11 }}{% endif %}{% endfor %}<|im_start|>assistant\n"
)


@pytest.fixture
async def two_faced(model_path: Path, tmp_path: Path) -> AsyncIterator[LocalModel]:
    """The real default model with another template in its file."""
    raw = model_path.read_bytes()
    start = raw.index(b"{% for message in messages %}")
    end = raw.index(b"{% endif %}", raw.index(b"add_generation_prompt", start)) + len(b"{% endif %}")
    file = tmp_path / "two-faced.gguf"
    # As long as the one before: lengths stand elsewhere in the file.
    file.write_bytes(raw[:start] + TWO_FACED.encode().ljust(end - start, b"\n") + raw[end:])
    settings = LocalModelSettings(
        name="m", kind="llama", source=f"file:{file}", context_tokens=256, threads=1
    )
    model = LocalModel(settings, models_dir=tmp_path)
    yield model
    await model.aclose()


async def test_a_hostile_file_fails_its_own_request_and_no_other(two_faced: LocalModel) -> None:
    def request(text: str) -> ChatRequest:
        return ChatRequest.parse({"messages": [{"role": "user", "content": text}], "max_tokens": 3})

    bad = asyncio.create_task(two_faced.complete(request("bomb")))
    good = await two_faced.complete(request("What is the capital of France?"))
    with pytest.raises(RequestError) as failed:
        await bad
    assert failed.value.code == "template_too_costly"
    assert good.body["choices"][0]["message"]["content"]
    assert two_faced.loaded
