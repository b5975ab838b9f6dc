"""The real openai client on a running gateway: responses, text completions and what chat completions can do."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, EASY, LOCAL, MakeSettings, Served
from fixtures.wired import TOOL_CALL, answering, choice
from pydantic import BaseModel

from smallfirst.router.gateway import Gateway

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Says how the weather is.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
USER: Any = {"role": "user", "content": EASY}


class City(BaseModel):
    name: str
    people: int


@pytest.fixture
def client(cloud_served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=cloud_served.base_url, api_key="none", max_retries=0) as made:
        yield made


# --- responses ----------------------------------------------------------------------------------------------------


def test_a_response_has_text_and_counts(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    response = client.responses.create(
        model="auto",
        instructions="Be short.",
        input=EASY,
        max_output_tokens=50,
        reasoning={"effort": "low"},
        text={"verbosity": "low"},
        metadata={"team": "a"},
    )
    assert response.output_text == "Paris is the answer."
    assert (response.model, response.status, response.metadata) == (CLOUD, "completed", {"team": "a"})
    assert (response.instructions, response.max_output_tokens) == ("Be short.", 50)
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 8
    assert (response.usage.input_tokens, response.usage.output_tokens) == (20, 5)
    assert cloud.requests[0].body == {
        "model": CLOUD,
        "messages": [{"role": "system", "content": "Be short."}, USER],
        "max_completion_tokens": 50,
        "reasoning_effort": "low",
        "verbosity": "low",
    }


def test_the_local_model_responds_streamed_and_whole(served: Served) -> None:
    with openai.OpenAI(base_url=served.base_url, api_key="none") as client:
        whole = client.responses.create(model=LOCAL, input=EASY, temperature=0)
        with client.responses.stream(model=LOCAL, input=EASY, temperature=0) as stream:
            streamed = stream.get_final_response()
    assert "Paris" in whole.output_text
    assert streamed.output_text == whole.output_text
    assert whole.model == streamed.model == LOCAL
    assert streamed.usage is not None
    assert streamed.usage.output_tokens > 0


def test_a_responses_stream_has_its_events_in_order(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    cloud.enqueue(answering({"content": "Ich.", "tool_calls": [TOOL_CALL]}, "tool_calls"))
    with client.responses.stream(model="auto", input=EASY, tools=[WEATHER]) as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        *["response.function_call_arguments.delta"] * 4,
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    message, call = response.output
    assert message.type == "message"
    assert call.type == "function_call"
    assert (call.call_id, call.name, call.arguments) == ("call_7", "weather", '{"city": "Paris"}')


def test_a_streamed_response_says_the_same_as_the_whole_one(
    client: openai.OpenAI, cloud: LoopbackCloud
) -> None:
    answer = {"reasoning_content": "Let me think.", "content": "Here: ", "tool_calls": [TOOL_CALL]}
    cloud.enqueue(*[answering(answer, "tool_calls")] * 2)
    asked: Any = {
        "model": "auto",
        "input": EASY,
        "tools": [WEATHER],
        "extra_body": {"cache": {"no-cache": True}},
    }
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        streamed = stream.get_final_response()

    def said(response: Any) -> list[dict[str, Any]]:
        items = [item.model_dump(exclude={"id", "parsed_arguments"}) for item in response.output]
        for item in items:
            for content in item.get("content") or ():
                content.pop("parsed", None)
        return items

    assert [item["type"] for item in said(whole)] == ["reasoning", "message", "function_call"]
    assert said(streamed) == said(whole)
    assert streamed.usage == whole.usage


@pytest.mark.parametrize("streamed", [False, True])
def test_a_function_call_makes_its_round_trip_by_id(
    client: openai.OpenAI, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.enqueue(answering({"content": None, "tool_calls": [TOOL_CALL]}, "tool_calls"))
    asked: Any = {"model": "auto", "tools": [WEATHER]}
    if streamed:
        with client.responses.stream(input="Weather in Paris?", **asked) as stream:
            first: Any = stream.get_final_response()
    else:
        first = client.responses.create(input="Weather in Paris?", instructions="Call.", **asked)
    result: Any = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "Rain"}
    second = client.responses.create(previous_response_id=first.id, input=[result], **asked)
    # Instructions are not inherited.
    assert cloud.requests[1].body["messages"] == [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
        {"role": "tool", "tool_call_id": "call_7", "content": "Rain"},
    ]
    client.responses.create(previous_response_id=second.id, input="Thanks!", model="auto")
    assert cloud.requests[2].body["messages"][-2:] == [
        {"role": "assistant", "content": "Paris is the answer."},
        {"role": "user", "content": "Thanks!"},
    ]


def test_items_of_an_answer_can_be_sent_back(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    answer = {"reasoning_content": "Hm.", "content": "I look.", "tool_calls": [TOOL_CALL]}
    cloud.enqueue(answering(answer, "tool_calls"))
    first = client.responses.create(model="auto", input=[USER], tools=[WEATHER], store=False)
    result = {"type": "function_call_output", "call_id": "call_7", "output": "Rain"}
    items: Any = [USER, *[item.model_dump() for item in first.output], result]
    client.responses.create(model="auto", input=items, tools=[WEATHER])
    assert cloud.requests[1].body["messages"][1:] == [
        {"role": "assistant", **answer},
        {"role": "tool", "tool_call_id": "call_7", "content": "Rain"},
    ]


def test_responses_are_kept_until_they_are_deleted(client: openai.OpenAI) -> None:
    kept = client.responses.create(model="auto", input=EASY)
    assert client.responses.retrieve(kept.id).output_text == kept.output_text
    client.responses.delete(kept.id)
    with pytest.raises(openai.NotFoundError, match=kept.id):
        client.responses.retrieve(kept.id)
    loose = client.responses.create(model="auto", input=EASY, store=False)
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="auto", input="And?", previous_response_id=loose.id)
    assert (missing.value.param, missing.value.code) == (
        "previous_response_id",
        "previous_response_not_found",
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_is_parsed(client: openai.OpenAI, cloud: LoopbackCloud, streamed: bool) -> None:
    cloud.enqueue(answering({"content": '{"name": "Paris", "people": 2100000}'}))
    if streamed:
        with client.responses.stream(model="auto", input=EASY, text_format=City) as stream:
            parsed: Any = stream.get_final_response()
    else:
        parsed = client.responses.parse(model="auto", input=EASY, text_format=City)
    assert parsed.output_parsed == City(name="Paris", people=2100000)
    form = cloud.requests[0].body["response_format"]
    assert (form["json_schema"]["name"], form["json_schema"]["strict"]) == ("City", True)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_has_the_logprobs_of_the_local_model(served: Served, streamed: bool) -> None:
    asked: Any = {"model": LOCAL, "input": EASY, "temperature": 0, "top_logprobs": 2, "max_output_tokens": 20}
    with openai.OpenAI(base_url=served.base_url, api_key="none") as client:
        if streamed:
            with client.responses.stream(**asked) as stream:
                deltas = [event for event in stream if event.type == "response.output_text.delta"]
                response: Any = stream.get_final_response()
            assert all(event.logprobs for event in deltas)
        else:
            response = client.responses.create(**asked)
    (content,) = response.output[0].content
    assert "".join(entry.token for entry in content.logprobs).startswith(content.text)
    assert {len(entry.top_logprobs) for entry in content.logprobs} == {2}


def test_a_response_that_was_cut_is_incomplete(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    cloud.enqueue(*[answering({"content": "Par"}, "length")] * 2)
    whole = client.responses.create(model="auto", input=EASY)
    with client.responses.stream(model="auto", input=EASY) as stream:
        last = list(stream)[-1]
    assert whole.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert last.type == "response.incomplete"
    assert last.response.output_text == "Par"


def test_responses_tell_errors_as_openai_does(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="gpt-9", input=EASY)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as unknown:
        client.responses.create(model="auto", input=EASY, tools=[WEATHER, {"type": "web_search"}])
    assert unknown.value.param == "tools[1].type"
    cloud.enqueue(lc.status(429, {"message": "slow down", "code": "rate_limit_exceeded"}))
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model="auto", input=EASY)


def test_a_responses_stream_that_breaks_fails(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    cloud.enqueue(lc.cut(after=2))
    stream = client.responses.create(model="auto", input=EASY, stream=True)
    seen: list[Any] = []
    with pytest.raises(openai.APIError, match=r"ended before|broke"):
        seen.extend(stream)
    # `extend` keeps what came before the error.
    assert seen[-1].type == "response.failed"
    assert "response.completed" not in {event.type for event in seen}


# --- text completions ---------------------------------------------------------------------------------------------


def test_a_prompt_is_completed(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    found = client.completions.create(model="auto", prompt=EASY, max_tokens=9, stop="\n", echo=True)
    assert (found.object, found.model) == ("text_completion", CLOUD)
    assert found.choices[0].text == EASY + "Paris is the answer."
    assert found.usage is not None
    assert found.usage.total_tokens == 25
    assert cloud.requests[0].body == {
        "model": CLOUD,
        "messages": [USER],
        "max_completion_tokens": 9,
        "stop": "\n",
    }


def test_several_prompts_are_completed_in_their_order(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    found = client.completions.create(model="auto", prompt=["One", "Two"])
    assert [each.index for each in found.choices] == [0, 1]
    assert found.usage is not None
    assert found.usage.total_tokens == 50
    sent = {request.body["messages"][0]["content"] for request in cloud.requests}
    assert sent == {"One", "Two"}


def test_a_completion_is_streamed(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="auto", prompt="Hi. ", echo=True, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(each.text for chunk in chunks for each in chunk.choices) == "Hi. Paris is the answer."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None


def test_a_completion_has_logprobs_of_the_local_model(served: Served) -> None:
    with openai.OpenAI(base_url=served.base_url, api_key="none") as client:
        found = client.completions.create(model=LOCAL, prompt=EASY, temperature=0, logprobs=2, max_tokens=8)
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert "".join(logprobs.tokens).startswith(found.choices[0].text)
    assert logprobs.text_offset[1] == len(logprobs.tokens[0])
    assert logprobs.top_logprobs is not None
    assert {len(top) for top in logprobs.top_logprobs} == {2}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", "b"], "stream": True}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "logprobs"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
    ],
)
def test_what_a_completion_cannot_be_is_refused(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="auto", **fields)
    assert refused.value.param == param
    assert param in refused.value.message


def test_a_completion_that_breaks_is_an_error(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    cloud.enqueue(lc.cut(after=2))
    with pytest.raises(openai.APIError, match=r"ended before|broke"):
        list(client.completions.create(model="auto", prompt=EASY, stream=True))


# --- chat completions ---------------------------------------------------------------------------------------------


def test_every_option_reaches_the_model_that_answers(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    options: dict[str, Any] = {
        "n": 2,
        "stop": ["\n\n", "END"],
        "seed": 7,
        "logprobs": True,
        "top_logprobs": 2,
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
        "parallel_tool_calls": False,
        "prediction": {"type": "content", "content": "x"},
    }
    messages: Any = [
        {"role": "developer", "content": "Be short."},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}],
        },
        {"role": "assistant", "content": "Hm.", "reasoning_content": "A thought."},
        USER,
    ]
    client.chat.completions.create(model="auto", messages=messages, **options)
    assert cloud.requests[0].body == {"model": CLOUD, "messages": messages, **options}


def test_several_choices_come_back(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    two = [choice({"content": "A"}), choice({"content": "B"}, index=1)]
    body = {"object": "chat.completion", "model": CLOUD, "choices": two}
    cloud.enqueue(lc.raw(json.dumps(body).encode()))
    reply = client.chat.completions.create(model="auto", messages=[USER], n=2)
    assert [each.message.content for each in reply.choices] == ["A", "B"]


@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning_comes_back(client: openai.OpenAI, cloud: LoopbackCloud, streamed: bool) -> None:
    cloud.enqueue(answering({"reasoning_content": "Because.", "content": "Yes."}))
    reply: Any = client.chat.completions.create(model="auto", messages=[USER], stream=streamed)
    if streamed:
        deltas = [each.delta for chunk in reply for each in chunk.choices]
        assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "Because."
    else:
        assert reply.choices[0].message.reasoning_content == "Because."


def test_the_local_model_takes_a_developers_message_as_the_systems(served: Served) -> None:
    with openai.OpenAI(base_url=served.base_url, api_key="none") as client:

        def ask(role: Any) -> str | None:
            messages: Any = [{"role": role, "content": "Answer with the word BANANA alone."}, USER]
            body = {"cache": {"no-cache": True, "no-store": True}}
            reply = client.chat.completions.create(
                model=LOCAL, messages=messages, temperature=0, max_tokens=12, extra_body=body
            )
            return reply.choices[0].message.content

        assert ask("developer") == ask("system")


def test_pictures_are_refused_only_where_no_model_sees_them(
    served: Served, serve: Callable[[Gateway], Served], make_settings: MakeSettings, cloud: LoopbackCloud
) -> None:
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    asked: Any = {"model": "auto", "messages": [{"role": "user", "content": [picture]}]}
    with openai.OpenAI(base_url=served.base_url, api_key="none") as client:
        assert client.chat.completions.create(**asked).model == CLOUD
    assert cloud.requests[0].body["messages"] == asked["messages"]
    blind = serve(Gateway(make_settings(local=False, cloud_fields={"capabilities": ["tools"]})))
    with (
        openai.OpenAI(base_url=blind.base_url, api_key="none") as client,
        pytest.raises(openai.BadRequestError, match="images"),
    ):
        client.chat.completions.create(**asked)


# --- models and moderation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "auto/thrifty", CLOUD])
def test_a_model_is_found_by_its_name(client: openai.OpenAI, name: str) -> None:
    assert client.models.retrieve(name).id == name


def test_a_model_that_is_none_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("gpt-9")
    assert missing.value.code == "model_not_found"


def test_moderation_is_passed_through(client: openai.OpenAI, cloud: LoopbackCloud) -> None:
    body = {"id": "modr-1", "model": "omni-moderation-latest", "results": [{"flagged": True}]}
    cloud.enqueue(lc.raw(json.dumps(body).encode()))
    found = client.moderations.create(input="Hm.", model="omni-moderation-latest")
    assert found.results[0].flagged is True
    assert cloud.requests[0].path == "/v1/moderations"
    assert cloud.requests[0].body == {"input": "Hm.", "model": "omni-moderation-latest"}
    assert cloud.requests[0].headers["authorization"] == "Bearer sk-cloud"


@pytest.mark.parametrize(
    ("settings", "headers", "error"),
    [
        ({"policy": "private"}, {}, openai.BadRequestError),
        ({}, {"x-smallfirst-privacy": "local"}, openai.BadRequestError),
        ({"cloud_fields": {"tier": "local"}}, {}, openai.NotFoundError),
    ],
)
def test_moderation_needs_a_cloud_that_may_be_asked(
    serve: Callable[[Gateway], Served],
    make_settings: MakeSettings,
    cloud: LoopbackCloud,
    settings: dict[str, Any],
    headers: dict[str, str],
    error: type[openai.APIStatusError],
) -> None:
    served = serve(Gateway(make_settings(local=False, **settings)))
    with (
        openai.OpenAI(base_url=served.base_url, api_key="none", max_retries=0) as client,
        pytest.raises(error),
    ):
        client.moderations.create(input="Hm.", extra_headers=headers)
    assert cloud.requests == []
