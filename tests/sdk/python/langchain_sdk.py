"""LangChain on OpenAI's dialect; OPENAI_BASE_URL and OPENAI_API_KEY say where to."""

from cases import model, native, raises, run
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import RateLimitError
from pydantic import BaseModel

MODEL = model("gpt-5")
chat = ChatOpenAI(model=MODEL, max_retries=0)


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def weather(city: str) -> str:
    """Today's weather."""
    return f"rain in {city}"


def case_plain():
    answer = chat.invoke([("system", "be brief"), ("human", "one two")])
    assert answer.content == "echo: one two"
    assert answer.usage_metadata["output_tokens"] == 3


def case_streamed():
    assert "".join(chunk.content for chunk in chat.stream("one two")) == "echo: one two"


def case_tools():
    answer = chat.bind_tools([weather]).invoke('call weather {"city":"Oslo"}')
    assert answer.tool_calls[0]["args"] == {"city": "Oslo"}


def case_structured():
    assert chat.with_structured_output(Person).invoke("who is Ada") == Person(name="Ada", age=7)


def fault_rate_limit():
    with raises(RateLimitError):
        chat.invoke("fail with rate_limit")


if native():

    def case_responses():
        answer = ChatOpenAI(model=MODEL, max_retries=0, use_responses_api=True).invoke("one two")
        assert answer.text == "echo: one two"

    def case_embeddings():
        # Its own cutting of long texts fetches a vocabulary from the network.
        embeddings = OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False)
        assert len(embeddings.embed_query("a b")) > 0


run(dict(globals()))
