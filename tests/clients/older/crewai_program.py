"""One use of CrewAI: python crewai_program.py WHAT URL KEY MODEL TEXT."""

from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from pydantic import BaseModel
from telling import tell


class City(BaseModel):
    """A city."""

    name: str
    people: int


def made(url: str, key: str, model: str, **fields: Any) -> LLM:
    return LLM(model=model, custom_openai=True, base_url=url, api_key=key, max_retries=0, **fields)


@tool("weather")
def weather(city: str) -> str:
    """Says how the weather is."""
    return f"sunny in {city}"


def worked(text: str, llm: LLM, tools: list[Any], **fields: Any) -> Any:
    agent = Agent(role="helper", goal="help", backstory="You help.", llm=llm, tools=tools, max_retry_limit=0)
    task = Task(description=text, expected_output="An answer.", agent=agent, **fields)
    return Crew(agents=[agent], tasks=[task]).kickoff()


def plain(url: str, key: str, model: str, text: str) -> Any:
    return made(url, key, model).call(text)


def streamed(url: str, key: str, model: str, text: str) -> Any:
    with made(url, key, model).stream_events(text) as stream:
        return [frame.content for frame in stream if frame.content]


def tools(url: str, key: str, model: str, text: str) -> Any:
    return worked(text, made(url, key, model), [weather]).raw


def structured(url: str, key: str, model: str, text: str) -> Any:
    return made(url, key, model).call(text, response_model=City).model_dump()


def hot(url: str, key: str, model: str, text: str) -> Any:
    return made(url, key, model, temperature=3).call(text)


if __name__ == "__main__":
    doing = {"plain": plain, "streamed": streamed, "tools": tools, "structured": structured, "hot": hot}
    tell("crewai", doing)
