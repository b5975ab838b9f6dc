"""One use of LlamaIndex: python llama_index_program.py WHAT URL KEY MODEL TEXT."""

import asyncio
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from telling import tell


class City(BaseModel):
    """A city."""

    name: str
    people: int


def made(url: str, key: str, model: str, **fields: Any) -> OpenAILike:
    kind = {"is_chat_model": True, "is_function_calling_model": True, "should_use_structured_outputs": True}
    return OpenAILike(model=model, api_base=url, api_key=key, max_retries=0, **kind, **fields)


def asked(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def plain(url: str, key: str, model: str, text: str) -> Any:
    return made(url, key, model).chat(asked(text)).message.content


def streamed(url: str, key: str, model: str, text: str) -> Any:
    return [piece.delta for piece in made(url, key, model).stream_chat(asked(text)) if piece.delta]


def tools(url: str, key: str, model: str, text: str) -> Any:
    def weather(city: str) -> str:
        """Says how the weather is."""
        return f"sunny in {city}"

    agent = FunctionAgent(tools=[weather], llm=made(url, key, model))

    async def run() -> str:
        return str(await agent.run(text))

    return asyncio.run(run())


def structured(url: str, key: str, model: str, text: str) -> Any:
    return made(url, key, model).as_structured_llm(City).chat(asked(text)).raw.model_dump()


def hot(url: str, key: str, model: str, text: str) -> Any:
    return made(url, key, model, additional_kwargs={"temperature": 3}).chat(asked(text)).message.content


def embeddings(url: str, key: str, model: str, text: str) -> Any:
    embedder = OpenAILikeEmbedding(model_name=model, api_base=url, api_key=key, max_retries=0)
    return len(embedder.get_text_embedding(text))


if __name__ == "__main__":
    doing = {
        "plain": plain,
        "streamed": streamed,
        "tools": tools,
        "structured": structured,
        "hot": hot,
        "embeddings": embeddings,
    }
    tell("llama-index-core", doing)
