"""The official OpenAI SDK; OPENAI_BASE_URL and OPENAI_API_KEY say where to."""

import asyncio
import io
import json

import openai
from cases import LONG, direct, model, native, raises, run
from pydantic import BaseModel

MODEL = model("gpt-5")
client = openai.OpenAI(max_retries=0)

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "today's", "parameters": PARAMETERS}}


class Person(BaseModel):
    name: str
    age: int


def user(text):
    return [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]


def case_chat():
    answer = client.chat.completions.create(model=MODEL, messages=user("one two"))
    assert answer.choices[0].message.content == "echo: one two"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 4 and answer.usage.completion_tokens == 3
    assert answer.usage.total_tokens == 7


def case_chat_streamed():
    stream = client.chat.completions.create(
        model=MODEL, messages=user("one two"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "echo: one two", text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 3
    assert len(chunks) >= 5


def case_chat_streamed_without_usage():
    chunks = list(client.chat.completions.create(model=MODEL, messages=user("one"), stream=True))
    assert all(c.choices for c in chunks) and all(c.usage is None for c in chunks)


def case_chat_tools():
    messages = user('call weather {"city":"Oslo"}')
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL])
    assert answer.choices[0].finish_reason == "tool_calls"
    call = answer.choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    messages += [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL])
    assert "rain" in answer.choices[0].message.content


def case_chat_tools_streamed():
    with client.chat.completions.stream(
        model=MODEL, messages=user("call weather"), tools=[{**TOOL, "function": {**TOOL["function"], "strict": True}}]
    ) as stream:
        final = stream.get_final_completion()
    call = final.choices[0].message.tool_calls[0]
    assert call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "weather"}


def case_chat_structured():
    answer = client.chat.completions.parse(model=MODEL, messages=user("who is Ada"), response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="Ada", age=7)


def case_chat_length():
    answer = client.chat.completions.create(model=MODEL, messages=user("a b c d"), max_completion_tokens=2)
    assert answer.choices[0].finish_reason == "length"


def case_chat_picture():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    content = [{"type": "text", "text": "see"}, picture]
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "echo: see [image]"


def case_chat_aborted():
    stream = client.chat.completions.create(model=MODEL, messages=user(LONG), stream=True)
    for _, _ in zip(range(3), stream):
        pass
    stream.close()


def case_async():
    async def ask():
        async with openai.AsyncOpenAI(max_retries=0) as client:
            stream = await client.chat.completions.create(model=MODEL, messages=user("one"), stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in stream])

    assert asyncio.run(ask()) == "echo: one"


def case_responses():
    answer = client.responses.create(model=MODEL, instructions="be brief", input="one two")
    assert answer.output_text == "echo: one two" and answer.status == "completed"
    assert answer.usage.input_tokens == 4 and answer.usage.output_tokens == 3


def case_responses_streamed():
    events = list(client.responses.create(model=MODEL, input="one two", stream=True))
    assert events[0].type == "response.created"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == "echo: one two"
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage.output_tokens == 3
    numbers = [e.sequence_number for e in events]
    assert numbers == sorted(set(numbers))


def case_responses_tools():
    tool = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
    first = {"role": "user", "content": 'call weather {"city":"Oslo"}'}
    answer = client.responses.create(model=MODEL, input=[first], tools=[tool])
    call = next(item for item in answer.output if item.type == "function_call")
    assert json.loads(call.arguments) == {"city": "Oslo"}
    again = [first, *answer.output, {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    answer = client.responses.create(model=MODEL, input=again, tools=[tool])
    assert "rain" in answer.output_text


def case_responses_structured():
    answer = client.responses.parse(model=MODEL, input="who is Ada", text_format=Person)
    assert answer.output_parsed == Person(name="Ada", age=7)


def code(word):
    def check(fault):
        assert word in (fault.code or fault.type), (fault.code, fault.body)

    return check


def ask(text="one", model=MODEL, client=client, **more):
    return client.chat.completions.create(model=model, messages=user(text), **more)


def case_errors():
    with raises(openai.AuthenticationError):
        ask(client=openai.OpenAI(api_key="sk-wrong", max_retries=0))
    with raises(openai.NotFoundError, code("model_not_found")):
        ask(model="none-such")
    with raises(openai.BadRequestError, code("context_length_exceeded")):
        ask("fail with context_length")
    with raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages="no list")


def fault_rate_limit():
    with raises(openai.RateLimitError, code("rate_limit")):
        ask("fail with rate_limit")


def fault_rate_limit_streamed():
    with raises(openai.RateLimitError, code("rate_limit")):
        list(ask("fail with rate_limit", stream=True))


def fault_quota():
    with raises(openai.RateLimitError, code("insufficient_quota")):
        ask("fail with quota")


def fault_server():
    with raises(openai.InternalServerError):
        ask("fail with server")


def fault_inside_a_stream():
    with raises(openai.APIError):
        list(ask("a b c break off", stream=True))


def fault_inside_a_response():
    stream = client.responses.create(model=MODEL, input="a b c d e f break off", stream=True)
    try:
        last = list(stream)[-1]
        assert last.type in ("error", "response.failed"), last
    except openai.APIError:
        pass


def fault_silence():
    with raises(openai.APITimeoutError):
        ask("be silent", client=client.with_options(timeout=0.3))


if native():

    def case_embeddings():
        answer = client.embeddings.create(model="text-embedding-3-small", input=["a b", "c"], dimensions=4)
        assert [len(e.embedding) for e in answer.data] == [4, 4] and answer.usage.total_tokens == 3
        plain = client.embeddings.create(
            model="text-embedding-3-small", input="a b", dimensions=4, encoding_format="float"
        )
        near = zip(plain.data[0].embedding, answer.data[0].embedding)
        assert all(abs(a - b) < 1e-6 for a, b in near)

    def case_models():
        names = [m.id for m in client.models.list()]
        assert names, names

    def case_moderations():
        answer = client.moderations.create(model="omni-moderation-latest", input="kill")
        assert answer.results[0].flagged and answer.results[0].categories.violence

    def case_images():
        answer = client.images.generate(model="gpt-image-1", prompt="a cat")
        assert answer.data[0].b64_json and answer.usage.input_tokens == 2

    def case_speech_and_hearing():
        sound = client.audio.speech.create(model="tts-1", voice="alloy", input="hi").read()
        assert sound.startswith(b"ID3hi")
        file = io.BytesIO(sound)
        file.name = "a.mp3"
        heard = client.audio.transcriptions.create(model="whisper-1", file=file)
        assert heard.text == f"heard {len(sound)} bytes of a.mp3"


def case_token_counting():
    assert client.responses.input_tokens.count(model=MODEL, input="a b").input_tokens == 2


run(dict(globals()))
