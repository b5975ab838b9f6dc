"""What a model's process does: chat (with calls, schemas, labels), embeddings, counting tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from ...classification.choice import LabelChoice, label_choice, ranked, text_of
from ...errors import InvalidRequest
from ...wire import ChatRequest
from .chat import ChatSink, failure
from .constrain import Constraint, constraint_of
from .deciding import Openings
from .engine import End, Engine, Grammars, Job, LabelsJob, SamplingParams, Sequence, Sink, Token
from .labels import BiasMemory, probabilities, without_content
from .likeness import Likeness
from .prompt import PromptRenderer
from .protocol import Delta, Done, Failed, FromWorker, Load, Spent, Submit

Put = Callable[[FromWorker], None]

# A prompt of more bytes than this a token is not even tokenised: no text is that dense.
_MOST_BYTES_A_TOKEN = 128
# With more labels than this, scoring each would take longer than writing the likeliest one.
_MOST_LABELS = 512
# What a label's lead in mean log-probability counts in logits. Not fitted: the best value was between 0.25 and 2 on the
# classification rows that were tried with SmolLM2-135M.
_SHARPNESS = 1.0


class Operations:
    """Carries out jobs.

    Args:
        load: How the model is run.
        engine: Runs it.
        grammars: Done as soon as constrained answers are possible.
        likeness: Says which functions a request is about.
        put: Takes what is to be said about jobs; called from several threads.

    Raises:
        ModelFileError: The model's chat template is missing or broken.
    """

    def __init__(
        self, load: Load, engine: Engine, grammars: Future[Grammars], likeness: Likeness, put: Put
    ) -> None:
        self._load = load
        self._engine = engine
        self._model = engine.model
        self._grammars = grammars
        self._put = put
        self._bias = BiasMemory()
        self._openings = Openings(self._model)
        self._likeness = likeness
        self._renderer = PromptRenderer(
            self._model.metadata,
            bos=self._model.bos,
            eos=self._model.eos,
            special=self._model.special_names,
            system_prompt=load.system_prompt,
        )
        self._running: dict[int, list[Sequence]] = {}

    @property
    def threads(self) -> int:
        """Threads that compute."""
        return self._model.threads

    def begin(self, submit: Submit) -> None:
        """Start a job.

        Raises:
            RequestError: It cannot be done; nothing was started.
        """
        if submit.operation == "embed":
            self._embed(submit)
            return
        request = ChatRequest.parse(submit.body)
        if submit.operation == "count":
            self._put(Done(submit.id, {"tokens": len(self._prompt(request))}))
            return
        choice = label_choice(request.fields)
        if choice is not None and len(choice.labels) <= _MOST_LABELS:
            self._choose_label(submit, request, choice)
        else:
            self._generate(submit, request)

    def cancel(self, job: int) -> None:
        """Give a job up."""
        for sequence in self._running.pop(job, ()):
            sequence.cancelled.set()

    # --- chat -------------------------------------------------------------------------------------------------

    def _prompt(self, request: ChatRequest, opening: str = "") -> tuple[int, ...]:
        pieces = [*self._renderer.render(request), opening]
        length = sum(map(len, pieces))
        if length <= self._load.context_tokens * _MOST_BYTES_A_TOKEN:
            tokens = self._tokens(pieces)
            if len(tokens) < self._load.context_tokens:
                return tokens
            size = f"{len(tokens)}"
        else:
            size = f"over {length // _MOST_BYTES_A_TOKEN}"
        raise InvalidRequest(
            f"The conversation has {size} tokens; the local model has room for {self._load.context_tokens}, "
            "its answer included.",
            param="messages",
            code="context_length_exceeded",
        )

    def _tokens(self, pieces: list[str]) -> tuple[int, ...]:
        tokens: list[int] = []
        bos = self._model.bos
        for at, piece in enumerate(pieces):
            first = at == 0 and not (bos and piece.startswith(bos))
            if piece:
                tokens += self._model.tokenize(piece, add_special=first)
        return tuple(tokens)

    def _generate(self, submit: Submit, request: ChatRequest) -> None:
        prompt = self._prompt(request)
        fields = request.fields
        constrained = bool(fields.tools) or fields.response_format is not None
        constraint = constraint_of(fields, self._grammars.result()) if constrained else Constraint()
        likeness: dict[str, float] = {}
        if constraint.calls is not None and not constraint.must_call:
            self._openings.read()
            if self._openings.calling.likeness:
                asked = text_of(fields)
                functions = (tool.function for tool in fields.tools or () if tool.function is not None)
                likeness = {function.name: self._likeness.of(asked, function) for function in functions}
        limit, room = request.max_output_tokens, self._load.context_tokens - len(prompt)
        job = Job(
            prompt=prompt,
            max_tokens=min(limit or self._load.max_output_tokens, room),
            params=SamplingParams(
                temperature=fields.temperature or 0.0,
                top_p=1.0 if fields.top_p is None else fields.top_p,
                seed=fields.seed,
                frequency_penalty=fields.frequency_penalty or 0.0,
                presence_penalty=fields.presence_penalty or 0.0,
            ),
            matcher=constraint.calls if constraint.must_call else constraint.words,
            adapter=submit.adapter,
            group=submit.group,
        )
        sink = ChatSink(
            self._model,
            self._openings,
            submit,
            fields,
            constraint,
            likeness=likeness,
            prompt_tokens=len(prompt),
            put=self.put,
        )
        sink.cramped = limit is None or room < limit
        self._submit(submit, job, sink)

    def _submit(self, submit: Submit, job: Job | LabelsJob, sink: Sink) -> None:
        sequences = self._running.setdefault(submit.id, [])
        sequences.append(self._engine.submit(job, sink))

    def put(self, message: Delta | Spent | Done | Failed) -> None:
        """Say something about a job; a `Done` or `Failed` is the last thing."""
        if isinstance(message, (Done, Failed)):
            self._running.pop(message.id, None)
        self._put(message)

    # --- labels -----------------------------------------------------------------------------------------------

    def _choose_label(self, submit: Submit, request: ChatRequest, choice: LabelChoice) -> None:
        labels = tuple(
            self._model.tokenize(choice.written(label), parse_special=False) for label in choice.labels
        )
        longest = max(map(len, labels))
        prompt = self._prompt(request, choice.opening)
        if len(prompt) + longest > self._load.context_tokens:
            raise InvalidRequest(
                f"The conversation and its longest label have {len(prompt) + longest} tokens; the local model has "
                f"room for {self._load.context_tokens}.",
                param="messages",
                code="context_length_exceeded",
            )
        scoring = _LabelScoring(self, submit, choice, labels, prompt)
        neutral = [self._prompt(empty, choice.opening) for empty in without_content(request)]
        scoring.bias = self._bias.get(neutral[0]) if neutral else None
        if neutral and scoring.bias is None:
            scoring.expect(len(neutral), partial(self._bias.put, neutral[0]))
            for one in neutral:
                job = LabelsJob(one, labels, submit.adapter, submit.group)
                self._submit(submit, job, _LabelsSink(scoring, scoring.learnt))
        job = LabelsJob(prompt, labels, submit.adapter, submit.group)
        self._submit(submit, job, _LabelsSink(scoring, scoring.scored))

    # --- embeddings -------------------------------------------------------------------------------------------

    def _embed(self, submit: Submit) -> None:
        texts = [
            self._model.tokenize(text, add_special=True, parse_special=False) for text in submit.body["input"]
        ]
        most = self._model.batch.size
        for at, tokens in enumerate(texts):
            if not tokens or len(tokens) > most:
                raise InvalidRequest(
                    f"Invalid value for 'input[{at}]': it has {len(tokens)} tokens; expected 1 to {most}.",
                    param=f"input[{at}]",
                    code="context_length_exceeded" if tokens else "empty_string",
                )
        vectors: list[list[float]] = []

        def one_more() -> None:
            # One text at a time, so that replies under way go on in between.
            if submit.id not in self._running:
                return
            try:
                vectors.append(self._model.embed([texts[len(vectors)]])[0].tolist())
            except Exception as exc:
                self.put(failure(submit, exc))
                return
            if len(vectors) < len(texts):
                self._engine.call(one_more)
                return
            self.put(Done(submit.id, {"vectors": vectors, "tokens": sum(map(len, texts))}))

        self._running[submit.id] = []
        self._engine.call(one_more)


class _LabelScoring:
    """One classification: waits for the labels' scores, and for the model's bias where that is not known yet."""

    def __init__(
        self,
        operations: Operations,
        submit: Submit,
        choice: LabelChoice,
        labels: tuple[tuple[int, ...], ...],
        prompt: tuple[int, ...],
    ) -> None:
        self._operations = operations
        self.submit = submit
        self._choice = choice
        self._lengths = [len(label) for label in labels]
        self._prompt_tokens = len(prompt)
        self._end: End | None = None
        self._ended = False
        self.bias: tuple[float, ...] | None = None
        self._waits_for = 1
        self._neutral: list[tuple[float, ...]] = []
        self._remember: Callable[[tuple[float, ...]], None] = lambda _: None
        self._cpu_seconds: dict[int, float] = {}

    def expect(self, neutral: int, remember: Callable[[tuple[float, ...]], None]) -> None:
        """Wait for the scores of so many texts without content; their mean, the bias, is handed to `remember`."""
        self._waits_for += neutral
        self._remember = remember

    def spent(self, part: int, cpu_seconds: float, cached_tokens: int) -> None:
        """Take note of what one of the scorings has taken so far."""
        self._cpu_seconds[part] = cpu_seconds
        taken = math.fsum(self._cpu_seconds.values())
        self._operations.put(Spent(self.submit.id, taken, self._prompt_tokens, cached_tokens, 0))

    def scored(self, end: End) -> None:
        """Take the labels' scores."""
        self._end = end
        self._arrived()

    def learnt(self, end: End) -> None:
        """Take the scores of one text without content."""
        self._neutral.append(end.scores)
        self._arrived()

    def failed(self, error: Exception) -> None:
        """Take note that a part failed."""
        if not self._ended:
            self._ended = True
            self._operations.put(failure(self.submit, error))

    def _arrived(self) -> None:
        self._waits_for -= 1
        if self._waits_for or self._ended or self._end is None:
            return
        if self._neutral:
            self.bias = tuple(math.fsum(scores) / len(scores) for scores in zip(*self._neutral, strict=True))
            self._remember(self.bias)
        shares = probabilities(self._end.scores, self.bias, sharpness=_SHARPNESS)
        by_label = ranked(self._choice, shares)
        label, best = next(iter(by_label.items()))
        second = sorted(shares)[-2]
        self._ended = True
        answer = self._choice.answer(label)
        result: dict[str, Any] = {
            "finish_reason": "stop",
            "usage": {
                "input_tokens": self._prompt_tokens,
                "output_tokens": self._lengths[self._choice.labels.index(label)],
                "cached_tokens": self._end.cached_tokens,
            },
            "confidence": _sureness(best, second),
            "probabilities": by_label,
        }
        if self.submit.stream:
            self._operations.put(Delta(self.submit.id, {"delta": {"content": answer}}, result["confidence"]))
        else:
            result |= {"message": {"role": "assistant", "content": answer}, "logprobs": None}
        self._operations.put(Done(self.submit.id, result))


class _LabelsSink:
    """Takes the end of one scoring."""

    def __init__(self, scoring: _LabelScoring, end: Callable[[End], None]) -> None:
        self._scoring = scoring
        self.end = end
        self.spent = partial(scoring.spent, id(self))
        self.alternatives = 0
        self.watched = None
        self.forcing = False

    def token(self, token: Token) -> bool:
        raise AssertionError("scoring makes no tokens")

    def may_end(self, token: Token) -> bool:
        return True

    def failed(self, error: Exception) -> None:
        self._scoring.failed(error)


def _sureness(best: float, second: float) -> dict[str, Any]:
    floor = 1e-9
    logprob = math.log(max(best, floor))
    margin = logprob - math.log(max(second, floor))
    return {"mean_logprob": logprob, "min_logprob": logprob, "min_margin": margin, "tokens": 1}
