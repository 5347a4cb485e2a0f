"""The official Google Gen AI SDK; GEMINI_BASE_URL and GEMINI_API_KEY say where to."""

import os

from cases import LONG, direct, model, native, raises, run
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

MODEL = model("gemini-2.5-pro")


def connect(key=os.environ["GEMINI_API_KEY"], **more):
    options = types.HttpOptions(base_url=os.environ["GEMINI_BASE_URL"], **more)
    return genai.Client(api_key=key, http_options=options)


client = connect()


class Person(BaseModel):
    name: str
    age: int


def ask(text, client=client, model=MODEL, **config):
    config = types.GenerateContentConfig(system_instruction="be brief", **config)
    return client.models.generate_content(model=model, contents=text, config=config)


def case_generate():
    answer = ask("one two")
    assert answer.text == "echo: one two"
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    usage = answer.usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.total_token_count) == (4, 3, 7)


def case_streamed():
    chunks = list(client.models.generate_content_stream(model=MODEL, contents="one two"))
    assert "".join(c.text or "" for c in chunks) == "echo: one two"
    assert chunks[-1].usage_metadata.candidates_token_count == 3
    assert len(chunks) >= 3


def case_tools():
    declared = types.FunctionDeclaration(
        name="weather",
        description="today's",
        parameters={"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
    )
    tools = [types.Tool(function_declarations=[declared])]
    answer = ask('call weather {"city":"Oslo"}', tools=tools)
    call = answer.function_calls[0]
    assert (call.name, call.args) == ("weather", {"city": "Oslo"})
    history = [
        types.Content(role="user", parts=[types.Part(text="call weather")]),
        answer.candidates[0].content,
        types.Content(
            role="user",
            parts=[types.Part.from_function_response(name="weather", response={"result": "rain"})],
        ),
    ]
    assert "rain" in ask(history, tools=tools).text


def case_tools_called_by_the_sdk():
    def weather(city: str) -> str:
        """Today's weather."""
        return f"rain in {city}"

    assert "rain in Oslo" in ask('call weather {"city":"Oslo"}', tools=[weather]).text


def case_structured():
    answer = ask("who is Ada", response_mime_type="application/json", response_schema=Person)
    assert answer.parsed == Person(name="Ada", age=7)


def case_length():
    # Fewer than 16 are refused by some.
    answer = ask("word " * 30, max_output_tokens=20)
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS


def case_picture():
    picture = types.Part.from_bytes(data=b"\x89PNG", mime_type="image/png")
    assert ask(["see", picture]).text == "echo: see [image]"


def case_aborted():
    stream = client.models.generate_content_stream(model=MODEL, contents=LONG)
    for _, _ in zip(range(3), stream):
        pass
    stream.close()


def status(*codes):
    def check(fault):
        assert fault.code in codes and fault.status, (fault.code, fault.details)

    return check


def case_errors():
    # The real one answers 400 to a key that is none.
    with raises(errors.ClientError, status(400, 401, 403)):
        ask("one", client=connect("wrong"))
    with raises(errors.ClientError, status(404)):
        ask("one", model="none-such")
    with raises(errors.ClientError, status(400)):
        ask("fail with context_length")


def fault_rate_limit():
    with raises(errors.ClientError, status(429)):
        ask("fail with rate_limit")


def fault_rate_limit_streamed():
    with raises(errors.ClientError, status(429)):
        list(client.models.generate_content_stream(model=MODEL, contents="fail with rate_limit"))


def fault_server():
    with raises(errors.ServerError, status(500, 502, 503)):
        ask("fail with server")


def fault_inside_a_stream():
    with raises(errors.APIError):
        list(client.models.generate_content_stream(model=MODEL, contents="a b c d e f break off"))


if native():

    def case_token_counting():
        assert client.models.count_tokens(model=MODEL, contents="a b c").total_tokens == 3

    def case_embeddings():
        config = types.EmbedContentConfig(output_dimensionality=3)
        answer = client.models.embed_content(model="gemini-embedding-001", contents=["a", "b"], config=config)
        assert [len(e.values) for e in answer.embeddings] == [3, 3]

    def case_thinking():
        config = types.ThinkingConfig(include_thoughts=True)
        answer = ask("one", thinking_config=config)
        assert answer.candidates[0].content.parts[0].thought
        assert answer.usage_metadata.thoughts_token_count == 3


if direct():
    # This SDK asks for `/v1/models`, as OpenAI's does.
    def case_models():
        assert [m.name for m in client.models.list()]


run(dict(globals()))
