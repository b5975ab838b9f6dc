"""`/v1/classify` and `/v1/embeddings` over real HTTP, and classifiers as models."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, LOCAL, MakeGateway, MakeSettings, Served

from smallfirst.router.classification.fit import fit_head
from smallfirst.router.errors import InvalidRequest, SettingsError
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.settings import ClassifierSettings, Settings

EXAMPLES = {
    "weather": ["will it rain today", "how warm is it in Rome", "is it sunny outside", "forecast for Monday"],
    "music": ["play some jazz", "put on my party playlist", "skip this song", "turn the music up"],
    "alarm": ["wake me at seven", "set an alarm for noon", "cancel my alarm", "remind me to get up at six"],
}
LABELS = list(EXAMPLES)


@pytest.fixture(scope="module")
def classifier_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that was trained on a dozen examples."""
    path = tmp_path_factory.mktemp("classifier") / "intents.npz"
    texts = [text for some in EXAMPLES.values() for text in some]
    labels = [label for label, some in EXAMPLES.items() for _ in some]
    fit_head(texts, labels, folds=2).save(path)
    return path


@pytest.fixture
def with_classifier(make_settings: MakeSettings, classifier_path: Path) -> Settings:
    """The usual settings with a classifier beside the other models."""
    settings = make_settings()
    own = ClassifierSettings(name="intents", kind="classifier", path=classifier_path)
    return settings.model_copy(update={"models": (*settings.models, own)})


def post(served: Served, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{served.base_url}{path}", json=body, timeout=30)


# --- /v1/classify -------------------------------------------------------------------------------------------------


def test_a_text_gets_label_probabilities(served: Served) -> None:
    response = post(served, "/classify", text="This film is wonderful.", labels=["good", "bad"])
    body = response.json()
    assert response.status_code == 200
    assert (body["object"], body["method"], body["model"]) == ("classification", "model", LOCAL)
    assert math.fsum(body["probabilities"].values()) == pytest.approx(1)
    assert body["label"] == next(iter(body["probabilities"]))
    assert response.headers["x-smallfirst-route"] == "local"


def test_several_texts_get_one_result_each(served: Served) -> None:
    texts = ["This film is wonderful.", "I hated it."]
    body = post(served, "/classify", input=texts, labels=["good", "bad"]).json()
    assert [sorted(result["probabilities"]) for result in body["results"]] == [["bad", "good"]] * 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"labels": ["a", "b"]}, "text"),
        ({"text": "x"}, "labels"),
        ({"text": "x", "labels": ["a"]}, "labels"),
        ({"text": "x", "labels": ["a", "b", "a"]}, "labels[2]"),
        ({"text": "x", "labels": [str(n) for n in range(10_000)]}, "labels"),
        ({"text": "x", "labels": ["a", ""]}, "labels[1]"),
        ({"text": "x", "labels": ["a", 1]}, "labels[1]"),
        ({"text": " ", "labels": ["a", "b"]}, "text"),
        ({"text": [], "labels": ["a", "b"]}, "text"),
        ({"text": "x", "labels": ["a", "b"], "model": "nobody"}, "model"),
    ],
)
def test_bad_input_is_refused_by_name(served: Served, body: dict[str, Any], param: str) -> None:
    response = post(served, "/classify", **body)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_cloud_model_gives_a_label_without_probabilities(served: Served, cloud: LoopbackCloud) -> None:
    body = post(served, "/classify", text="x", labels=["a", "b"], model=CLOUD).json()
    assert (body["method"], body["model"], body["probabilities"]) == ("cloud", CLOUD, None)
    assert len(cloud.requests) == 1


# --- classifiers --------------------------------------------------------------------------------------------------


async def test_a_trained_classifier_takes_over_for_its_labels(
    make_gateway: MakeGateway, with_classifier: Settings
) -> None:
    gateway = make_gateway(with_classifier)
    ((result, receipt),) = await gateway.classify("set an alarm for eight", LABELS[::-1])
    assert (result["label"], result["method"], result["model"]) == ("alarm", "classifier", "intents")
    assert (receipt.route, receipt.cost_usd) == ("local", 0)
    ((other, _),) = await gateway.classify("set an alarm for eight", ["alarm", "other"])
    assert other["method"] == "model"


async def test_routing_takes_it_where_it_is_sure(
    make_gateway: MakeGateway, with_classifier: Settings, cloud: LoopbackCloud
) -> None:
    gateway = make_gateway(with_classifier)
    schema = {"type": "object", "properties": {"label": {"enum": LABELS}}, "required": ["label"]}
    body = {
        "messages": [{"role": "user", "content": "set an alarm for noon"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "l", "schema": schema}},
    }
    sure = await gateway.complete(body, model="auto/thrifty")
    assert json.loads(sure.text) == {"label": "alarm"}
    assert (sure.receipt.model, sure.receipt.route) == ("intents", "local")
    assert sure.receipt.score is not None
    stream = await gateway.stream(body, model="auto/thrifty", cache={"no-cache": True})
    parts = [json.loads(chunk) async for chunk in stream]
    assert "".join(c["delta"].get("content", "") for p in parts for c in p["choices"]) == sure.text
    unsure = body | {"messages": [{"role": "user", "content": "qwertz"}]}
    assert (await gateway.complete(unsure, model="auto/quality")).receipt.model == CLOUD
    assert len(cloud.requests) == 1


async def test_a_classifier_refuses_what_it_was_not_made_for(
    make_gateway: MakeGateway, with_classifier: Settings
) -> None:
    gateway = make_gateway(with_classifier)
    with pytest.raises(InvalidRequest) as caught:
        await gateway.complete("Hello", model="intents")
    assert caught.value.param == "response_format"


def test_a_missing_classifier_is_an_error_at_start(make_settings: MakeSettings, tmp_path: Path) -> None:
    own = ClassifierSettings(name="intents", kind="classifier", path=tmp_path / "none.npz")
    settings = make_settings()
    with pytest.raises(SettingsError, match=r"none\.npz"):
        Gateway(settings.model_copy(update={"models": (*settings.models, own)}))


# --- /v1/embeddings -----------------------------------------------------------------------------------------------


@pytest.fixture
def embedding(
    serve: Callable[[Gateway], Served], make_settings: MakeSettings, local_model: LocalModel
) -> Served:
    """A gateway whose local model serves embeddings."""
    settings = make_settings()
    models = (settings.models[0].model_copy(update={"embeddings": True}), *settings.models[1:])
    chosen = settings.model_copy(update={"models": models})
    return serve(Gateway(chosen, models={LOCAL: local_model}))


def test_the_openai_client_gets_embeddings(embedding: Served) -> None:
    with openai.OpenAI(base_url=embedding.base_url, api_key="none", max_retries=0) as client:
        # By default the client asks for base64, and decodes it.
        found = client.embeddings.create(model=LOCAL, input=["a cat", "a dog"])
        plain = client.embeddings.create(model=LOCAL, input="a cat", encoding_format="float")
    assert [item.index for item in found.data] == [0, 1]
    assert found.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert found.usage.prompt_tokens > 3


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": "x"}, 400, "model"),
        ({"model": LOCAL}, 400, "input"),
        ({"model": LOCAL, "input": []}, 400, "input"),
        ({"model": LOCAL, "input": ["a", ""]}, 400, "input[1]"),
        ({"model": LOCAL, "input": "x", "dimensions": 3}, 400, "dimensions"),
        ({"model": CLOUD, "input": "x"}, 404, "model"),
    ],
)
def test_bad_embedding_requests_are_refused(
    embedding: Served, body: dict[str, Any], status: int, param: str
) -> None:
    response = post(embedding, "/embeddings", **body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_a_model_that_is_not_set_up_for_it_says_what_to_do(served: Served) -> None:
    response = post(served, "/embeddings", model=LOCAL, input="x")
    assert response.status_code == 404
    assert "embeddings: true" in response.json()["error"]["message"]
