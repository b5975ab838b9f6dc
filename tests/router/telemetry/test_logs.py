"""Logs: one line an event, and nothing of what callers sent or keys are in it."""

from __future__ import annotations

import io
import json
import logging
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.loopback_cloud import LoopbackCloud, cut, events, hang_up, raw, status
from fixtures.serving import CLOUD, HARD, MakeSettings, Served
from pydantic import SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.ledger import Entry
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.settings import LogSettings
from smallfirst.router.telemetry.logs import JsonFormatter, accessed, request_ended, set_level, write_logs

PROMPT, REPLY = "canary-of-the-prompt-81c4", "canary-of-the-reply-5d2e"
KEY, CLOUD_KEY, HEADER = "canary-key-0123456789", "canary-cloud-key-77", "canary-of-a-header-9a1b"
CANARIES = (PROMPT, REPLY, KEY, CLOUD_KEY, HEADER)

ENTRY = Entry(
    request_id="req_1",
    started_at=0.0,
    duration_ms=812.34567,
    overhead_ms=0.61234,
    ttft_ms=120.0,
    route="cloud",
    model=CLOUD,
    policy="balanced",
    reason_code="hard",
    input_tokens=20,
    output_tokens=5,
    cost_usd=0.0021,
    tenant="acme",
    session="s-1",
)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def written(settings: LogSettings, log: Any) -> str:
    """Return what is written while `log` runs."""
    out = io.StringIO()
    with write_logs(settings, out):
        log()
    return out.getvalue()


def test_a_request_is_one_line_of_json() -> None:
    (line,) = lines(written(LogSettings(format="json"), lambda: request_ended(ENTRY)))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "smallfirst.request",
        "message": "request",
        "request_id": "req_1",
        "kind": "request",
        "status": "ok",
        "http_status": 200,
        "route": "cloud",
        "model": CLOUD,
        "policy": "balanced",
        "reason_code": "hard",
        "cache": "off",
        "attempts": 0,
        "stream": False,
        "duration_ms": 812.346,
        "overhead_ms": 0.612,
        "ttft_ms": 120.0,
        "input_tokens": 20,
        "output_tokens": 5,
        "cost_usd": 0.0021,
    }


def test_text_has_the_same_on_one_line() -> None:
    text = written(LogSettings(), lambda: request_ended(ENTRY))
    assert text.count("\n") == 1
    assert "info smallfirst.request request request_id=req_1 kind=request status=ok" in text


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_message_of_several_lines_is_one_line(form: Any) -> None:
    def log() -> None:
        logging.getLogger("smallfirst").error("two things are wrong: %s", "s.yaml:1: a\ns.yaml:2: b")

    (line,) = written(LogSettings(format=form), log).splitlines()
    assert "s.yaml:1: a\\ns.yaml:2: b" in line


def test_an_upstreams_own_error_code_is_not_logged() -> None:
    fields = {"status": "error", "http_status": 400, "error_code": PROMPT, "reason_code": PROMPT}
    entry = Entry(request_id="r", started_at=0.0, duration_ms=1.0, **fields)  # type: ignore[arg-type]
    (line,) = lines(written(LogSettings(format="json"), lambda: request_ended(entry)))
    assert (line["error_code"], line["reason_code"]) == ("other", "other")


@pytest.mark.parametrize(("level", "count"), [("debug", 2), ("info", 1), ("warning", 0)])
def test_the_level_says_what_is_written(level: Any, count: int) -> None:
    def log() -> None:
        accessed("GET", "/health", 200, seconds=0.001, request_id=None)
        accessed("POST", "/v1/route", 200, seconds=0.001, request_id=None)

    assert len(lines(written(LogSettings(format="json", level=level), log))) == count


def test_the_level_can_be_changed_meanwhile() -> None:
    def log() -> None:
        set_level(LogSettings(level="error"))
        request_ended(ENTRY)

    assert written(LogSettings(), log) == ""


def test_an_exceptions_message_is_left_out() -> None:
    """It may quote the request."""

    def log() -> None:
        try:
            raise ValueError(PROMPT)
        except ValueError:
            logging.getLogger("another.package").exception("it failed")

    (line,) = lines(written(LogSettings(format="json"), log))
    assert line["message"] == "it failed"
    assert line["exception"].endswith("ValueError")
    assert "test_logs.py" in line["exception"]
    assert PROMPT not in json.dumps(line)


def test_asyncios_words_on_a_failed_task_are_cut_short() -> None:
    record = logging.LogRecord(
        "asyncio", logging.ERROR, "", 0, f"never retrieved\nfuture: {PROMPT}", (), None
    )
    assert json.loads(JsonFormatter().format(record))["message"] == "never retrieved"


def test_logging_is_as_it_was_afterwards() -> None:
    everything, ours = logging.getLogger(), logging.getLogger("smallfirst")
    before = everything.level, ours.level, list(everything.handlers)
    written(LogSettings(level="debug"), lambda: None)
    assert (everything.level, ours.level, everything.handlers) == before


def test_a_reader_that_is_stuck_does_not_hold_up_who_logs() -> None:
    """Lines that find no room are dropped, and counted in a last one."""
    free = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            free.wait(10)
            return super().write(text)

    out = Stuck()
    with write_logs(LogSettings(format="json"), out):
        for _ in range(10_100):
            request_ended(ENTRY)
        free.set()
    *_, last = lines(out.getvalue())
    assert last["message"] == "lines were dropped"
    assert 90 <= last["dropped"] <= 100


# --- a busy run -----------------------------------------------------------------------------------------------


def busy(served: Served, cloud: LoopbackCloud) -> None:
    """Ask for all that can go wrong, canaries in every place that a caller or an upstream can fill."""
    quoting = {"message": f"no: {PROMPT}", "type": PROMPT, "code": PROMPT, "param": PROMPT}
    cloud.answer_text = REPLY
    headers = {"authorization": f"Bearer {KEY}", "x-session-id": HEADER, "x-request-id": HEADER}
    url = f"{served.root}/v1/chat/completions"
    body = {"model": CLOUD, "messages": [{"role": "user", "content": f"{PROMPT}: {HARD}"}]}
    metadata = {"agent": PROMPT, "session": PROMPT, "tags": [PROMPT]}
    error = b'data: {"error": {"message": "' + PROMPT.encode() + b'"}}\n\n'
    first = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
    behaviours = (
        status(400, quoting),
        status(500, quoting),
        status(401, quoting),
        hang_up(),
        raw(PROMPT.encode()),
        cut(after=1),
        events(first, error),
    )
    for behaviour in behaviours:
        for stream in (False, True):
            served.gateway.health.succeeded(CLOUD)
            cloud.enqueue(behaviour)
            httpx.post(
                url, json={**body, "stream": stream, "metadata": metadata}, headers=headers, timeout=30
            )
    served.gateway.health.succeeded(CLOUD)
    assert httpx.post(url, json=body, headers=headers).status_code == 200
    httpx.post(url, json={**body, "model": PROMPT}, headers=headers)
    httpx.post(url, content=f'{{"model": "{PROMPT}'.encode(), headers=headers)
    httpx.post(url, json=body, headers={"authorization": f"Bearer {KEY}-wrong"})
    httpx.get(f"{served.root}/v1/models/{PROMPT}?q={PROMPT}", headers=headers)
    httpx.get(f"{served.root}/{PROMPT}?q={PROMPT}", headers=headers)
    httpx.post(f"{served.root}/v1/feedback", json={"request_id": PROMPT, "score": PROMPT}, headers=headers)
    httpx.post(f"{served.root}/admin/reload", headers=headers)


def test_nothing_that_was_sent_is_in_the_log_of_a_busy_run(
    serve: Any, make_settings: MakeSettings, cloud: LoopbackCloud, tmp_path: Path
) -> None:
    server = {
        "keys": [{"key": KEY}],
        "admin_key": f"{KEY}-of-the-admin",
        "key_store": tmp_path / "keys.db",
    }
    settings = make_settings(local=False, server=server, cloud_fields={"api_key": SecretStr(CLOUD_KEY)})
    as_json, as_text = io.StringIO(), io.StringIO()
    everything = LogSettings(format="json", level="debug")
    with write_logs(everything, as_json), write_logs(LogSettings(level="debug"), as_text):
        busy(serve(Gateway(settings)), cloud)
    for log in (as_json.getvalue(), as_text.getvalue()):
        assert [canary for canary in CANARIES if canary in log] == []
        assert log.count("smallfirst.access") == 14 + 8
        assert log.count("smallfirst.request") >= 15
        assert "upstream_unreachable" in log


def test_a_local_models_run_is_logged_without_its_words(
    serve: Any, make_settings: MakeSettings, local_model: LocalModel
) -> None:
    out = io.StringIO()
    with write_logs(LogSettings(format="json", level="debug"), out):
        served = serve(Gateway(make_settings(), models={local_model.name: local_model}))
        body = {"model": local_model.name, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3}
        answer = httpx.post(f"{served.root}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200
    asked = [line for line in lines(out.getvalue()) if line["logger"] == "smallfirst.request"]
    assert [line["route"] for line in asked] == ["local"]
    assert asked[0]["request_id"] == answer.headers["x-smallfirst-request-id"]
    assert PROMPT not in out.getvalue()
