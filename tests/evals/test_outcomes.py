"""Running a model over rows with a checkable answer."""

from __future__ import annotations

import json
from pathlib import Path

from smallfirst.evals.checkers import Answer
from smallfirst.evals.outcomes import LOCAL_OUTCOMES, Row, collect, own_data, simple_rows, summary
from smallfirst.router.errors import InvalidRequest
from smallfirst.router.training.files import read_rows
from smallfirst.router.wire import ChatRequest, Reply, ReplyStream, Usage


class Echo:
    """Answers with the last message; refuses an empty one."""

    name = "echo"

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def complete(self, request: ChatRequest) -> Reply:
        text = request.fields.messages[-1].text
        self.asked.append(text)
        if not text:
            raise InvalidRequest("too long", code="context_length_exceeded")
        return Reply({"choices": [{"message": {"content": text}}]}, Usage(3, 1))

    async def stream(self, request: ChatRequest) -> ReplyStream:
        raise NotImplementedError

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...


def rows(*texts: str) -> list[Row]:
    def is_yes(answer: Answer) -> bool:
        return answer.content == "yes"

    return [
        Row("f.jsonl", str(at), "s", {"messages": [{"role": "user", "content": text}]}, is_yes)
        for at, text in enumerate(texts)
    ]


def test_outcomes_name_the_row_and_hold_no_text(tmp_path: Path) -> None:
    collect(Echo(), rows("yes"), tmp_path / "o.jsonl")
    assert json.loads((tmp_path / "o.jsonl").read_text()) == {
        "file": "f.jsonl", "id": "0", "subset": "s", "model": "echo", "ok": True, "input_tokens": 3, "output_tokens": 1,
    }  # fmt: skip


def test_a_second_run_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    collect(Echo(), rows("yes", "no"), tmp_path / "o.jsonl")
    model = Echo()
    seen = []
    found = collect(
        model, rows("yes", "no", "maybe"), tmp_path / "o.jsonl", progress=lambda *at: seen.append(at)
    )
    assert model.asked == ["maybe"]
    assert seen == [(3, 1, 3)]
    assert (found["n"], found["by_subset"]) == (3, {"f/s": {"n": 3, "accuracy": 1 / 3}})


def test_a_refused_request_is_not_right(tmp_path: Path) -> None:
    found = collect(Echo(), rows(""), tmp_path / "o.jsonl")
    assert found["accuracy"] == 0
    assert json.loads((tmp_path / "o.jsonl").read_text())["error"] == "context_length_exceeded"


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
    keys = {"file", "id", "subset", "model", "ok", "input_tokens", "output_tokens", "error"}
    assert all(outcome.keys() <= keys for outcome in outcomes)
    names = [(o["model"], o["file"], o["id"]) for o in outcomes]
    assert len(set(names)) == len(names)
    for model in ("smollm2-135m", "qwen2.5-coder-0.5b"):
        assert {row.id for row in simple_rows()} <= {o["id"] for o in outcomes if o["model"] == model}
