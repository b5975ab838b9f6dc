"""Running a model over rows with a checkable answer."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

from smallfirst.evals.checkers import Answer
from smallfirst.evals.outcomes import LOCAL_OUTCOMES, MAX_TOKENS, Row, collect, own_data, simple_rows, summary
from smallfirst.router.confidence import Confidence
from smallfirst.router.errors import InvalidRequest, ModelUnavailable, UpstreamError
from smallfirst.router.training.files import read_rows
from smallfirst.router.wire import ChatRequest, Reply, ReplyStream, Usage


class Echo:
    """Answers with the last message; refuses an empty one.

    Args:
        confidence: Told with each answer.
        fails_after: So many answers it gives.
        together: Answers only once so many ask at a time.
    """

    name = "echo"

    def __init__(
        self, confidence: Confidence | None = None, *, fails_after: int = 99, together: int = 1
    ) -> None:
        self.requests: list[ChatRequest] = []
        self.closed = False
        self._confidence = confidence
        self._fails_after = fails_after
        self._barrier = asyncio.Barrier(together)

    @property
    def asked(self) -> list[str]:
        return [request.fields.messages[-1].text for request in self.requests]

    async def complete(self, request: ChatRequest) -> Reply:
        await self._barrier.wait()
        if len(self.requests) == self._fails_after:
            raise ModelUnavailable("gone")
        self.requests.append(request)
        text = request.fields.messages[-1].text
        if not text:
            raise InvalidRequest("too long", code="context_length_exceeded")
        return Reply({"choices": [{"message": {"content": text}}]}, Usage(3, 1), confidence=self._confidence)

    async def stream(self, request: ChatRequest) -> ReplyStream:
        raise NotImplementedError

    async def start(self) -> None: ...

    async def aclose(self) -> None:
        self.closed = True


def rows(*texts: str) -> list[Row]:
    def is_yes(answer: Answer) -> bool:
        return answer.content == "yes"

    return [
        Row("f.jsonl", str(at), "s", {"messages": [{"role": "user", "content": text}]}, is_yes)
        for at, text in enumerate(texts)
    ]


async def test_outcomes_name_the_row_and_hold_no_text(tmp_path: Path) -> None:
    found = await collect(Echo(), rows("yes"), tmp_path / "o.jsonl")
    written = {
        "file": "f.jsonl", "id": "0", "subset": "s", "model": "echo", "ok": True, "confidence": None,
        "input_tokens": 3, "output_tokens": 1,
    }  # fmt: skip
    assert (
        [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()] == found == [written]
    )


async def test_how_sure_the_model_was_is_kept(tmp_path: Path) -> None:
    sure = Echo(Confidence(math.log(0.87654), -1.0, 0.1, 2))
    (found,) = await collect(sure, rows("no"), tmp_path / "o.jsonl")
    assert (found["ok"], found["confidence"]) == (False, 0.8765)


async def test_rows_are_asked_at_temperature_0_and_cut_off(tmp_path: Path) -> None:
    model = Echo()
    await collect(model, rows("yes"), tmp_path / "o.jsonl")
    assert [(r.body["temperature"], r.body["max_tokens"]) for r in model.requests] == [(0, MAX_TOKENS)]


async def test_a_second_run_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    await collect(Echo(), rows("yes", "no"), tmp_path / "o.jsonl")
    model = Echo()
    seen: list[int] = []
    found = await collect(
        model, rows("yes", "no", "maybe"), tmp_path / "o.jsonl", progress=lambda: seen.append(1)
    )
    assert model.asked == ["maybe"]
    assert len(seen) == 3
    told = summary("echo", found)
    assert (told["n"], told["by_subset"]) == (3, {"f/s": {"n": 3, "accuracy": 1 / 3}})


async def test_another_models_outcomes_and_other_rows_do_not_count(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    await collect(Echo(), rows("yes", "no"), out)
    other = {**json.loads(out.read_text().splitlines()[0]), "model": "other", "id": "0"}
    out.write_text(out.read_text() + json.dumps(other) + "\n")
    found = await collect(Echo(), rows("yes"), out)
    assert [(o["id"], o["model"]) for o in found] == [("0", "echo")]


async def test_a_refused_request_is_not_right(tmp_path: Path) -> None:
    found = await collect(Echo(), rows(""), tmp_path / "o.jsonl")
    assert summary("echo", found)["accuracy"] == 0
    assert json.loads((tmp_path / "o.jsonl").read_text())["error"] == "context_length_exceeded"


async def test_several_rows_are_asked_at_a_time_and_each_once(tmp_path: Path) -> None:
    model = Echo(together=3)
    async with asyncio.timeout(20):
        found = await collect(model, rows(*map(str, range(6))), tmp_path / "o.jsonl", concurrency=3)
    assert sorted(model.asked) == list("012345")
    assert len(found) == 6


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_model_that_fails_ends_the_run_and_what_it_answered_is_kept(
    tmp_path: Path, concurrency: int
) -> None:
    out = tmp_path / "o.jsonl"
    model = Echo(fails_after=2)
    with pytest.raises(ModelUnavailable, match="gone"):
        await collect(model, rows(*map(str, range(6))), out, concurrency=concurrency)
    assert model.closed
    kept = {json.loads(line)["id"] for line in out.read_text().splitlines()}
    assert len(kept) == 2
    again = Echo()
    found = await collect(again, rows(*map(str, range(6))), out)
    assert len(found) == 6
    assert set(again.asked) == set("012345") - kept


def test_no_outcomes_have_no_accuracy() -> None:
    assert summary("m", [])["accuracy"] is None


def test_every_hand_written_prompt_is_a_valid_request_with_a_check() -> None:
    prompts = simple_rows()
    assert len({row.id for row in prompts}) == len(prompts) > 250
    for row in prompts:
        ChatRequest.parse(dict(row.body))
        assert row.check(Answer("")) is False


def test_the_shipped_outcomes_hold_no_text_and_cover_the_prompts() -> None:
    outcomes = list(read_rows(own_data(LOCAL_OUTCOMES)))
    keys = {"file", "id", "subset", "model", "ok", "confidence", "input_tokens", "output_tokens", "error"}
    assert all(outcome.keys() <= keys for outcome in outcomes)
    names = [(o["model"], o["file"], o["id"]) for o in outcomes]
    assert len(set(names)) == len(names)
    for model in ("smollm2-135m", "qwen2.5-coder-0.5b"):
        assert {row.id for row in simple_rows()} <= {o["id"] for o in outcomes if o["model"] == model}


async def test_a_row_that_a_cloud_refuses_does_not_stop_the_others(tmp_path: Path) -> None:
    class Strict(Echo):
        async def complete(self, request: ChatRequest) -> Reply:
            if request.fields.messages[-1].text == "odd":
                raise UpstreamError("no", status=400)
            return await super().complete(request)

    found = await collect(Strict(), rows("odd", "yes"), tmp_path / "o.jsonl")
    assert sorted((o["id"], o["ok"], "error" in o) for o in found) == [("0", False, True), ("1", True, False)]
