"""One use of instructor: python instructor_program.py WHAT URL KEY MODEL TEXT."""

from typing import Any

import instructor
import openai
from pydantic import BaseModel, Field
from telling import tell


class City(BaseModel):
    """A city."""

    name: str
    people: int = Field(ge=1000)


def made(url: str, key: str, mode: instructor.Mode = instructor.Mode.TOOLS) -> Any:
    return instructor.from_openai(openai.OpenAI(base_url=url, api_key=key, max_retries=0), mode=mode)


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def plain(url: str, key: str, model: str, text: str) -> Any:
    reply = made(url, key).create(model=model, messages=asked(text), response_model=None)
    return reply.choices[0].message.content


def streamed(url: str, key: str, model: str, text: str) -> Any:
    pieces = made(url, key).create_partial(
        model=model, messages=asked(text), response_model=City, max_retries=0
    )
    return [piece.model_dump() for piece in pieces]


def tools(url: str, key: str, model: str, text: str) -> Any:
    """A call that does not fit is answered with what is wrong, and made again."""
    client = made(url, key)
    return client.create(model=model, messages=asked(text), response_model=City, max_retries=2).model_dump()


def structured(url: str, key: str, model: str, text: str) -> Any:
    client = made(url, key, instructor.Mode.JSON_SCHEMA)
    return client.create(model=model, messages=asked(text), response_model=City, max_retries=0).model_dump()


def hot(url: str, key: str, model: str, text: str) -> Any:
    return made(url, key).create(
        model=model, messages=asked(text), response_model=City, max_retries=0, temperature=3
    )


if __name__ == "__main__":
    doing = {"plain": plain, "streamed": streamed, "tools": tools, "structured": structured, "hot": hot}
    tell("instructor", doing)
