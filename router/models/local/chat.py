"""One chat answer in the process: from the engine's tokens to messages for the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ...errors import ModelError, RequestError
from ...wire import ChatFields
from .calls import ParsedCall
from .constrain import Constraint
from .deciding import CallDecision, Openings
from .engine import End, NativeModel, Token, Turn
from .engine.sampling import IdArray
from .generation import Collected, Generation
from .grounding import Grounds
from .protocol import Delta, Done, Failed, Spent, Submit


class ChatSink:
    """Turns a generation's tokens into messages.

    Where the answer may be words or calls, it first finds out which (`CallDecision`), and has the engine turn back to
    the prompt's end for the form that was decided on.

    Args:
        model: For the tokens' text.
        openings: By what the model shows that it means to call.
        submit: The job.
        fields: Of its request.
        constraint: What the answer must look like.
        likeness: Of each function to the request, by name; only read where the answer may be words or a call.
        prompt_tokens: The prompt's length.
        put: Takes what is to be said.

    Attributes:
        cramped: Whether a limit of the model's own ends the answer before the request's does.
    """

    def __init__(
        self,
        model: NativeModel,
        openings: Openings,
        submit: Submit,
        fields: ChatFields,
        constraint: Constraint,
        *,
        likeness: Mapping[str, float],
        prompt_tokens: int,
        put: Callable[[Delta | Spent | Done | Failed], None],
    ) -> None:
        self._model = model
        self._openings = openings
        self._submit = submit
        self._fields = fields
        self._constraint = constraint
        self._prompt_tokens = prompt_tokens
        self.cramped = False
        self._put = put
        self._collected = Collected()
        may_choose = constraint.calls is not None and not constraint.must_call
        self._decision = CallDecision(model, openings.calling, likeness) if may_choose else None
        self._looking = may_choose
        self._generation = self._start(calls=constraint.must_call, constrained=constraint.words is not None)

    @property
    def alternatives(self) -> int:
        """How many likely alternatives the engine shall report with a token."""
        return self._fields.top_logprobs or 0

    @property
    def watched(self) -> IdArray | None:
        """The tokens whose share tells whether a call, or another one, is meant."""
        if self._looking:
            return self._openings.first
        return self._openings.further if self._generation.between_calls else None

    @property
    def forcing(self) -> bool:
        """Whether forced tokens are taken unseen: not while their probability is evidence."""
        return self._decision is None

    def spent(self, cpu_seconds: float, cached_tokens: int) -> None:
        """Pass on what the answer has taken so far."""
        made = self._generation.tokens
        self._put(Spent(self._submit.id, cpu_seconds, self._prompt_tokens, cached_tokens, made))

    def token(self, token: Token) -> bool | Turn:
        """Take a token."""
        if self._looking:
            return self._look(token)
        self._pass_on(self._generation.feed(token))
        if self._decision is not None:
            verdict = self._decision.feed(token)
            if verdict == "words":
                return self._turn(calls=False)
            if verdict == "call":
                self._decision = None
        return not self._generation.done

    def may_end(self, token: Token) -> bool:
        """Whether the answer may end: not where another call is meant."""
        if not self._generation.between_calls or token.watched is None:
            return True
        after_first, later = self._openings.calling.another
        return token.watched < (after_first if self._generation.calls == 1 else later)

    def end(self, end: End) -> None:
        """Take the end."""
        try:
            self._pass_on(self._generation.finish(end))
        except ModelError as exc:
            self.failed(exc)
            return
        result: dict[str, Any] = {
            "finish_reason": self._generation.finish_reason,
            "stop_reason": self._generation.stop_reason,
            "usage": {
                "input_tokens": self._prompt_tokens,
                "output_tokens": self._generation.tokens,
                "cached_tokens": end.cached_tokens,
            },
            "confidence": self._generation.confidence,
            "cut": self.cramped and end.reason == "length",
        }
        if not self._submit.stream:
            result |= self._collected.choice(logprobs=bool(self._fields.logprobs))
        self._put(Done(self._submit.id, result))

    def failed(self, error: Exception) -> None:
        """Take note that the job failed."""
        self._put(failure(self._submit, error))

    # --- words or a call --------------------------------------------------------------------------------------

    def _look(self, token: Token) -> bool | Turn:
        assert self._decision is not None
        self._looking = False
        if self._decision.first(token) == "undecided":
            return self._turn(calls=True)
        self._decision = None
        self._pass_on(self._generation.feed(token))
        return not self._generation.done

    def _turn(self, *, calls: bool) -> Turn:
        if not calls:
            self._decision = None
        matcher = self._constraint.calls if calls else self._constraint.no_call
        self._generation = self._start(calls=calls, constrained=calls or self._constraint.words is not None)
        self._collected = Collected()
        return Turn(matcher)

    def _start(self, *, calls: bool, constrained: bool) -> Generation:
        stop = self._fields.stop
        return Generation(
            self._model,
            stops=[stop] if isinstance(stop, str) else stop or [],
            calls=calls,
            constrained=calls or constrained,
            check=self._constraint.check,
            trim=self._without_inventions if self._openings.calling.invents else None,
            logprobs=bool(self._fields.logprobs),
        )

    def _without_inventions(self, call: ParsedCall) -> ParsedCall:
        functions = (tool.function for tool in self._fields.tools or () if tool.function is not None)
        schema = (
            next((function.parameters for function in functions if function.name == call.name), None) or {}
        )
        arguments = msgspec.json.decode(call.arguments.encode())
        grounds = Grounds("\n".join(message.text for message in self._fields.messages))
        kept = grounds.kept(arguments, schema)
        if len(kept) == len(arguments):
            return call
        return ParsedCall(call.name, msgspec.json.encode(kept).decode())

    def _pass_on(self, choices: list[dict[str, Any]]) -> None:
        if not self._submit.stream:
            self._collected.add(choices)
            return
        for choice in choices:
            self._put(Delta(self._submit.id, choice, self._generation.confidence))


def failure(submit: Submit, error: Exception) -> Failed:
    """Return what is said of a job that failed; nothing of its text is in it."""
    if isinstance(error, RequestError):
        return Failed(submit.id, error.status, error.message, error.param, error.code)
    return Failed(
        submit.id, 502, f"The local model failed ({type(error).__name__}).", code="local_model_failed"
    )
