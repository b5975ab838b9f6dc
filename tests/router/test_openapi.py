"""The OpenAPI document is valid, and the running gateway keeps to it."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, Served
from fixtures.wired import choice
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from smallfirst.router.server.openapi import Operation
from smallfirst.router.server.operations import operations
from smallfirst.router.wires.response_store import MemoryResponses

ROOT = Path(__file__).parents[2]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
BODIES = (
    "ChatFields",
    "CompletionFields",
    "ResponseFields",
    "MessagesFields",
    "CountFields",
    "ClassifyFields",
)


OPERATIONS = operations(MemoryResponses(0, 1.0))


def str_of(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


@pytest.fixture
def document(cloud_served: Served) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{cloud_served.root}/openapi.json").json()
    return found


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_the_document_has_every_path(document: dict[str, Any]) -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`(?:GET |POST )?(/v1/[a-z/_]+|/health[a-z/]*|/metrics)`", readme))
    assert named <= set(document["paths"])
    assert {"/v1/messages", "/v1/responses", "/v1/completions"} <= named


def test_the_document_says_what_the_bodies_are(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["MessagesFields"]["required"] == ["messages", "model", "max_tokens"]
    assert schemas["MessageItem"]["required"] == ["role", "content"]
    body = document["paths"]["/v1/responses"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ResponseFields"}


@pytest.mark.parametrize(
    "operation",
    # These two need a model that is not there, and a request that was made.
    [each for each in OPERATIONS if each.example and each.path not in ("/v1/embeddings", "/v1/feedback")],
    ids=str_of,
)
def test_every_example_works(
    operation: Operation,
    document: dict[str, Any],
    cloud_served: Served,
    cloud: LoopbackCloud,
) -> None:
    if operation.path == "/v1/moderations":
        cloud.enqueue(lc.raw(b'{"results": []}'))
    if operation.path == "/v1/classify":
        cloud.enqueue(lc.raw(json.dumps({"choices": [choice({"content": '{"label": "order"}'})]}).encode()))
    described = schemathesis.openapi.from_dict(document)[operation.path][operation.method]
    for streamed in ({}, {"stream": True}) if operation.streams else ({},):
        body = {**(operation.example or {}), **streamed}
        case = described.Case(body=body, media_type="application/json")
        response = case.call(base_url=cloud_served.root)
        assert response.status_code == 200, response.text
        case.validate_response(response, checks=CHECKS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str_of)
def test_the_gateway_keeps_to_the_document(
    operation: Operation, document: dict[str, Any], cloud_served: Served, cloud: LoopbackCloud
) -> None:
    if operation.path == "/v1/moderations":
        # It is no chat, which is all that this cloud knows.
        cloud.enqueue(*[lc.raw(b'{"results": []}')] * 50)
    # With names of models that there are: else nearly every request would end at an unknown name.
    for name in BODIES:
        document["components"]["schemas"][name]["properties"]["model"] = {"enum": ["auto", CLOUD]}
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=cloud_served.root)
    path = operation.path.replace(":path", "")

    @given(case=schema[path][operation.method].as_strategy())
    @settings(
        max_examples=8,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    def check(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS)

    check()
