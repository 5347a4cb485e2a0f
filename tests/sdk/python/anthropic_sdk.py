"""The official Anthropic SDK; ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY say where to."""

import anthropic
from cases import LONG, model, native, raises, run
from pydantic import BaseModel

MODEL = model("claude-sonnet-4-5")
client = anthropic.Anthropic(max_retries=0)

TOOL = {
    "name": "weather",
    "description": "today's",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Person(BaseModel):
    name: str
    age: int


def ask(text, client=client, **more):
    given = {"model": MODEL, "max_tokens": 4096, "system": "be brief", **more}
    return client.messages.create(messages=[{"role": "user", "content": text}], **given)


def case_messages():
    answer = ask("one two")
    assert answer.content[0].text == "echo: one two" and answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 3)


def case_streamed():
    with client.messages.stream(
        model=MODEL, max_tokens=4096, messages=[{"role": "user", "content": "one two"}]
    ) as stream:
        words = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(words) == "echo: one two" and len(words) == 3
    assert final.usage.output_tokens == 3 and final.stop_reason == "end_turn"


def case_tools():
    first = {"role": "user", "content": 'call weather {"city":"Oslo"}'}
    answer = ask(first["content"], tools=[TOOL])
    assert answer.stop_reason == "tool_use"
    call = next(block for block in answer.content if block.type == "tool_use")
    assert call.input == {"city": "Oslo"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    messages = [first, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(model=MODEL, max_tokens=100, messages=messages, tools=[TOOL])
    assert "rain" in answer.content[0].text


def case_tools_streamed():
    with client.messages.stream(
        model=MODEL,
        max_tokens=4096,
        messages=[{"role": "user", "content": "call weather"}],
        tools=[TOOL],
        tool_choice={"type": "any"},
    ) as stream:
        final = stream.get_final_message()
    assert final.content[0].input == {"city": "weather"} and final.stop_reason == "tool_use"


def case_structured():
    answer = client.messages.parse(
        model=MODEL, max_tokens=4096, messages=[{"role": "user", "content": "who is Ada"}], output_format=Person
    )
    assert answer.parsed_output == Person(name="Ada", age=7)


def case_length_and_stop():
    # Fewer than 16 are refused by some.
    assert ask("word " * 30, max_tokens=20).stop_reason == "max_tokens"


def case_picture():
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content = [{"type": "text", "text": "see"}, {"type": "image", "source": source}]
    assert ask(content).content[0].text == "echo: see [image]"


def case_aborted():
    with client.messages.stream(
        model=MODEL, max_tokens=4096, messages=[{"role": "user", "content": LONG}]
    ) as stream:
        for _, _ in zip(range(3), stream.text_stream):
            pass


def case_errors():
    with raises(anthropic.AuthenticationError):
        ask("one", client=anthropic.Anthropic(api_key="sk-wrong", max_retries=0))
    with raises(anthropic.NotFoundError):
        ask("one", model="none-such")
    with raises(anthropic.BadRequestError):
        ask("fail with context_length")
    with raises(anthropic.BadRequestError):
        client.messages.create(model=MODEL, max_tokens=10, messages=[{"role": "robot", "content": "one"}])


def fault_rate_limit():
    with raises(anthropic.RateLimitError):
        ask("fail with rate_limit")


def fault_rate_limit_streamed():
    with raises(anthropic.RateLimitError):
        ask("fail with rate_limit", stream=True)


def fault_server():
    with raises(anthropic.InternalServerError):
        ask("fail with server")


def fault_inside_a_stream():
    with raises(anthropic.APIStatusError, lambda fault: fault.body["error"]["type"]):
        list(ask("a b c d break off", stream=True))


def fault_silence():
    with raises(anthropic.APITimeoutError):
        ask("be silent", client=client.with_options(timeout=0.3))


if native():

    def case_thinking():
        answer = ask("one", thinking={"type": "enabled", "budget_tokens": 1024})
        assert [block.type for block in answer.content] == ["thinking", "text"]
        assert answer.content[0].signature

    def case_stop_sequence():
        answer = ask("a b STOP c", stop_sequences=["STOP"])
        assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "STOP")

    def case_token_counting():
        counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "a b c"}])
        assert counted.input_tokens == 3

    def case_models():
        assert [m.id for m in client.models.list()]


run(dict(globals()))
