"""What the classifier sees of a request: the whole conversation as numbers, in one pass, in bounded time.

`STRUCTURE` names every structural column in order, with its meaning; `FEATURES_HASH` ties an artefact to these names
and to the way that text is cut, so that weights are never applied to other columns than they were trained on.

Long conversations are read through windows (the head and the tail of the last user message, and of everything before
it), so that time is bounded whatever the body's size.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np
from tokenizers import Tokenizer

from ..wire import ChatRequest, Message, NamedToolChoice
from .arithmetic import read_tokens, unit
from .embedding import FloatArray, IdArray, TokenEmbedding
from .peel import peeled
from .vocabulary import CLASSES, class_table

# Characters that are read of the last user message and of what precedes it; the middle of longer ones is left out.
FOCUS_HEAD, FOCUS_TAIL = 4000, 6000
CONTEXT_HEAD, CONTEXT_TAIL = 2000, 3000
# Hashed pairs of neighbouring tokens.
BIGRAM_BUCKETS = 1 << 15
# Characters a token, for JSON such as tools and schemas, which are not tokenised here.
JSON_CHARS_PER_TOKEN = 3.5
# What a message's role and separators cost in a chat template, and what an image costs about, in tokens.
MESSAGE_TOKENS, IMAGE_TOKENS = 4, 800
# Raise when text is cut, counted or hashed in another way under the same names.
VERSION = 2

STRUCTURE: tuple[tuple[str, str], ...] = (
    ("log_focus_tokens", "log(1 + tokens of the last user message)"),
    ("log_context_tokens", "log(1 + tokens of everything before it)"),
    ("chars_per_token", "of the last user message; low for rare words, code, other scripts"),
    ("short", "1 where the last user message has at most 12 tokens"),
    ("log_messages", "log(1 + number of messages)"),
    ("log_user_turns", "log(1 + user messages)"),
    ("has_system", "a system or developer message is there"),
    ("log_system_chars", "log(1 + its characters)"),
    ("last_is_user", "the last message is the user's"),
    ("last_is_tool", "the last message is a tool's result: an agent's step"),
    ("last_is_assistant", "the last message is the assistant's: a continuation"),
    ("log_tool_results", "log(1 + tool results in the conversation)"),
    ("log_tool_calls", "log(1 + tool calls made so far)"),
    ("has_tools", "tools are offered"),
    ("log_tools", "log(1 + tools offered)"),
    ("log_tool_chars", "log(1 + characters of their definitions)"),
    ("log_parameters", "log(1 + parameters over all tools)"),
    ("log_required", "log(1 + required parameters over all tools)"),
    ("choice_required", "tool_choice is `required`"),
    ("choice_named", "tool_choice names a function"),
    ("choice_none", "tool_choice is `none`"),
    ("json_object", "response_format is json_object"),
    ("json_schema", "response_format is json_schema"),
    ("log_schema_properties", "log(1 + properties of the schema)"),
    ("log_labels", "log(1 + the longest enum of the schema): a choice among labels"),
    ("few_labels", "that enum has 2 to 6 values"),
    ("has_media", "an image, audio or file is attached"),
    ("log_lines", "log(1 + lines of the last user message)"),
    ("log_options", "log(1 + lines that begin like A) or B.)"),
    ("log_bullets", "log(1 + lines that begin with a bullet or a number)"),
    ("few_shot", "the message carries solved examples before its question"),
    ("log_code_fences", "log(1 + ``` marks)"),
    ("log_numbers", "log(1 + numbers)"),
    ("long_number", "digits of the longest number, at most 12, over 12"),
    ("log_sentences", "log(1 + marks that end a sentence)"),
    ("ends_with_question", "the last user message ends with a question mark"),
    ("ends_with_colon", "it ends with a colon, as `Answer:` does"),
    ("distinct", "distinct tokens over tokens"),
    ("mean_rank", "mean of log(token id): ids of this vocabulary grow with rarity"),
    ("high_rank", "its 90th percentile"),
    *((f"share_{name}", f"share of tokens: {meaning}") for name, meaning, _ in CLASSES),
    *((f"log_{name}", f"log(1 + tokens): {meaning}") for name, meaning, _ in CLASSES),
)
NAMES = tuple(name for name, _ in STRUCTURE)
FEATURES_HASH = hashlib.sha256(
    json.dumps([VERSION, NAMES, FOCUS_HEAD, FOCUS_TAIL, CONTEXT_HEAD, CONTEXT_TAIL, BIGRAM_BUCKETS]).encode()
).hexdigest()[:16]

_OPTION = re.compile(r"^[ \t]*\(?[A-J][).:] ", re.MULTILINE)
_BULLET = re.compile(r"^[ \t]*(?:[-*•]|\d{1,2}[.)]) ", re.MULTILINE)
_SOLVED = re.compile(r"^(?:answer|output|response|label|a) ?:", re.MULTILINE | re.IGNORECASE)


class Features(msgspec.Struct, frozen=True, eq=False):
    """A request as numbers.

    Attributes:
        structure: One value for each of `STRUCTURE`.
        focus: Unit vector (256) of the last user message; zeros where it has no text.
        context: Unit vector of the conversation, half of it the last user message; `focus` itself where there is
            nothing else.
        ngrams: Distinct token ids of the last user message, in order; then, from the size of the vocabulary on,
            distinct buckets of neighbouring tokens (`BIGRAM_BUCKETS`).
        ngram_counts: How often each occurs.
        input_tokens: Estimate of the whole prompt's tokens, tools and schema included.
        focus_tokens: Tokens of the last user message that were read.
    """

    structure: FloatArray
    focus: FloatArray
    context: FloatArray
    ngrams: IdArray
    ngram_counts: FloatArray
    input_tokens: int
    focus_tokens: int


class FeatureReader:
    """Turns requests into features. Holds the embedding and one row of token classes for each token."""

    def __init__(self, embedding: TokenEmbedding) -> None:
        self.embedding = embedding
        self._classes = class_table(embedding.tokenizer)
        self._log_rank = np.log(np.arange(1, len(embedding.vectors) + 1, dtype=np.float32))

    @staticmethod
    @cache
    def packaged() -> FeatureReader:
        """Return the reader over the installed package's files. Made once a process: it takes 0.4 s, and only reads.

        Raises:
            SmallfirstError: The files are not there.
        """
        return FeatureReader(TokenEmbedding.load())

    def read(self, request: ChatRequest) -> Features:
        """Return the features of a request. Pure CPU, under 10 ms for any body."""
        cut = _cut(request.fields.messages)
        focus_ids = self.embedding.ids(cut.focus)
        context_ids = self.embedding.ids(cut.context)
        focus = self.embedding.vector(focus_ids)
        context = unit(focus + self.embedding.vector(context_ids)) if len(context_ids) else focus
        ngrams, counts, columns = read_tokens(focus_ids, self._classes, self._log_rank, BIGRAM_BUCKETS)
        conversation = _conversation(request, request.fields.messages)
        values = (
            *_sizes(focus_ids, context_ids, cut.focus),
            *conversation.values,
            *_shape(cut.question, cut.focus, few_shot=cut.few_shot),
            *columns,
        )
        return Features(
            structure=np.array(values, dtype=np.float32),
            focus=focus,
            context=context,
            ngrams=ngrams,
            ngram_counts=counts,
            input_tokens=_whole_length(cut, conversation, len(focus_ids) + len(context_ids)),
            focus_tokens=len(focus_ids),
        )

    def input_tokens(self, request: ChatRequest) -> int:
        """Return `read(request).input_tokens` and read nothing else; in about a third of the time."""
        cut = _cut(request.fields.messages)
        tokens = len(self.embedding.ids(cut.focus)) + len(self.embedding.ids(cut.context))
        return _whole_length(cut, _conversation(request, request.fields.messages), tokens)

    @property
    def tokenizer(self) -> Tokenizer:
        """What texts are cut with."""
        return self.embedding.tokenizer

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text; of one longer than what is read of a message, an estimate."""
        sample = _window(text, FOCUS_HEAD, FOCUS_TAIL)
        tokens = len(self.embedding.ids(sample))
        return tokens if len(sample) >= len(text) else math.ceil(tokens * len(text) / len(sample))


class _Cut(msgspec.Struct, frozen=True):
    """What is read of a conversation's texts: the last question, its window, and the window of what precedes it."""

    question: str
    focus: str
    context: str
    few_shot: bool


def _cut(messages: Sequence[Message]) -> _Cut:
    at = _last_user(messages)
    question, examples = _split_examples(messages[at].text if at is not None else "")
    question = peeled(question)
    focus = _window(question, FOCUS_HEAD, FOCUS_TAIL)
    return _Cut(question, focus, _context(messages, at, examples), bool(examples))


class _Conversation(msgspec.Struct, frozen=True):
    values: tuple[float, ...]
    chars: int
    extra_tokens: int


def _whole_length(cut: _Cut, conversation: _Conversation, tokens: int) -> int:
    """Return the whole prompt's tokens, where what was cut out of it has so many."""
    ratio = tokens / max(1, len(cut.focus) + len(cut.context))
    return round(conversation.chars * ratio) + conversation.extra_tokens


def _sizes(focus_ids: IdArray, context_ids: IdArray, focus_text: str) -> tuple[float, ...]:
    n = len(focus_ids)
    return (math.log1p(n), math.log1p(len(context_ids)), len(focus_text) / max(1, n), float(n <= 12))


def _conversation(request: ChatRequest, messages: Sequence[Message]) -> _Conversation:
    """Columns from roles, tools and schema, and how many characters and other tokens the prompt has."""
    chars = system_chars = users = results = calls = media = 0
    system = False
    for message in messages:
        size = _length(message)
        for call in message.tool_calls or ():
            calls += 1
            size += len(call.function.arguments) + len(call.function.name) if call.function else 0
        chars += size
        if message.role == "user":
            users += 1
        elif message.role in ("tool", "function"):
            results += 1
        elif message.role in ("system", "developer"):
            system, system_chars = True, system_chars + size
        if isinstance(message.content, list):
            media += sum(part.type not in ("text", "refusal") for part in message.content)
    last = messages[-1].role
    tools, tool_chars = _tools(request)
    schema, schema_chars = _schema(request)
    values = (
        math.log1p(len(messages)),
        math.log1p(users),
        float(system),
        math.log1p(system_chars),
        float(last == "user"),
        float(last in ("tool", "function")),
        float(last == "assistant"),
        math.log1p(results),
        math.log1p(calls),
        *tools,
        *schema,
        float(media > 0),
    )
    extra = math.ceil((tool_chars + schema_chars) / JSON_CHARS_PER_TOKEN)
    return _Conversation(values, chars, extra + MESSAGE_TOKENS * len(messages) + IMAGE_TOKENS * media)


def _tools(request: ChatRequest) -> tuple[tuple[float, ...], int]:
    tools, choice = request.fields.tools or [], request.fields.tool_choice
    parameters = required = 0
    for tool in tools:
        schema = (tool.function.parameters if tool.function else None) or {}
        properties, needed = schema.get("properties"), schema.get("required")
        parameters += len(properties) if isinstance(properties, dict) else 0
        required += len(needed) if isinstance(needed, list) else 0
    chars = len(msgspec.json.encode(request.body.get("tools"))) if tools else 0
    return (
        float(bool(tools)),
        math.log1p(len(tools)),
        math.log1p(chars),
        math.log1p(parameters),
        math.log1p(required),
        float(choice == "required"),
        float(isinstance(choice, NamedToolChoice)),
        float(choice == "none"),
    ), chars


def _schema(request: ChatRequest) -> tuple[tuple[float, ...], int]:
    form = request.fields.response_format
    kind = form.type if form else "text"
    schema = form.json_schema.definition if form and form.json_schema else None
    properties = schema.get("properties") if schema else None
    labels = 0
    for field in properties.values() if isinstance(properties, dict) else ():
        values = field.get("enum") if isinstance(field, dict) else None
        labels = max(labels, len(values) if isinstance(values, list) else 0)
    return (
        float(kind == "json_object"),
        float(kind == "json_schema"),
        math.log1p(len(properties) if isinstance(properties, dict) else 0),
        math.log1p(labels),
        float(2 <= labels <= 6),
    ), len(msgspec.json.encode(schema)) if schema else 0


def _shape(question: str, window: str, *, few_shot: bool) -> tuple[float, ...]:
    """Columns from the layout of the last user message."""
    end = question[-64:].rstrip()
    numbers = _number_lengths(window)
    return (
        math.log1p(window.count("\n") + 1),
        math.log1p(len(_OPTION.findall(window))),
        math.log1p(len(_BULLET.findall(window))),
        float(few_shot),
        math.log1p(window.count("```")),
        math.log1p(len(numbers)),
        min(max(numbers, default=0), 12) / 12,
        math.log1p(window.count(". ") + window.count("? ") + window.count("! ") + window.count(".\n") + 1),
        float(end.endswith("?")),
        float(end.endswith(":")),
    )


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def _number_lengths(text: str) -> list[int]:
    return [len(number) for number in _NUMBER.findall(text)]


def _last_user(messages: Sequence[Message]) -> int | None:
    for at in range(len(messages) - 1, -1, -1):
        if messages[at].role == "user":
            return at
    return None


def _split_examples(text: str) -> tuple[str, str]:
    """Cut a few-shot prompt into its question and the solved examples before it (empty where there are none)."""
    if len(text) > 200_000:
        return text, ""
    marks = [match.end() for match in _SOLVED.finditer(text)]
    if len(marks) < 3:
        return text, ""
    # The question follows the last solved example; a mark at the very end is where the answer is asked for.
    last = marks[-2] if not text[marks[-1] :].strip() else marks[-1]
    cut = text.find("\n\n", last)
    if cut < 0 or not text[cut:].strip():
        return text, ""
    return text[cut:].lstrip("\n"), text[:cut]


def _length(message: Message) -> int:
    if isinstance(message.content, str):
        return len(message.content)
    return sum(len(part.text or "") for part in message.content or ())


def _window(text: str, head: int, tail: int) -> str:
    return text if len(text) <= head + tail else f"{text[:head]}\n{text[-tail:]}"


def _context(messages: Sequence[Message], focus: int | None, examples: str) -> str:
    """Return the windowed text of every message but the last user's, and of that one's examples."""
    others = [*messages[:focus], *messages[focus + 1 :]] if focus is not None else messages
    head: list[str] = []
    tail: list[str] = [examples[-CONTEXT_TAIL:]] if examples else []
    room = CONTEXT_HEAD
    at = 0
    while at < len(others) and room > 0:
        text = _spoken(others[at])
        if len(text) > room:
            break
        head.append(text)
        room -= len(text)
        at += 1
    if at < len(others) and room > 0:
        head.append(_spoken(others[at])[:room])
    room = CONTEXT_TAIL - sum(map(len, tail))
    for later in range(len(others) - 1, at - 1, -1):
        if room <= 0:
            break
        text = _spoken(others[later])
        if later == at:
            text = text[CONTEXT_HEAD - sum(map(len, head[:-1])) :]
        tail.append(text[-room:])
        room -= len(text)
    return "\n".join((*head, *reversed(tail)))


def _spoken(message: Message) -> str:
    """A message's text, or the calls that it makes."""
    text = message.text
    if text or not message.tool_calls:
        return text
    return "\n".join(
        f"{c.function.name} {c.function.arguments[:CONTEXT_TAIL]}" for c in message.tool_calls if c.function
    )
