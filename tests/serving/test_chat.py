"""What a request may say: whatever else it says is refused by name."""

import json
from typing import Any

import pytest

from batch.serving.chat import MOST_MESSAGES, ChatRequest, RequestError, parse_request

USER = {"role": "user", "content": "what ?"}
ASSISTANT = {"role": "assistant", "content": "a"}


def body(**changes: Any) -> bytes:
    return json.dumps({"model": "abc", "messages": [USER], **changes}).encode()


def test_a_conversation_and_its_video_are_read() -> None:
    assert parse_request(body(temperature=0.7, user="x", max_tokens=None)) == ChatRequest(
        video="abc", turns=("what ?",), limit=None, streams=False, tells_usage=False
    )
    parts = [
        {"type": "video_url", "video_url": {"url": "def"}},
        {"type": "text", "text": "what"},
        {"type": "text", "text": "now ?"},
    ]
    found = parse_request(
        body(
            messages=[{"role": "user", "content": parts}, ASSISTANT, USER],
            max_completion_tokens=7,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert found == ChatRequest(
        video="def", turns=("what\nnow ?", "a", "what ?"), limit=7, streams=True, tells_usage=True
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "the body: got a list, expected an object"),
        (body(model=""), "model: expected"),
        (body(model=3), "model: expected"),
        (body(messages=None), "messages: expected a list"),
        (body(messages=[]), "messages: expected a list"),
        (body(messages=["a"]), r"messages\[0\]: role: got None, expected 'user'"),
        (body(messages=[ASSISTANT]), r"messages\[0\]: role: got 'assistant'"),
        (body(messages=[USER, USER]), r"messages\[1\]: role: got 'user'"),
        (body(messages=[USER, ASSISTANT]), "the last one must be the user's"),
        (body(messages=[USER, ASSISTANT] * MOST_MESSAGES), "messages: expected a list of 1 to"),
        (body(messages=[{**USER, "role": "system"}, USER]), "a system message stands before"),
        (body(messages=[{"role": "user"}]), "content: got nothing, expected a text"),
        (body(messages=[{**USER, "content": [{"type": "image_url"}]}]), "got a part 'image_url'"),
        (body(messages=[{**USER, "content": [3]}]), "got a part None"),
        (body(messages=[{**USER, "content": "a" * 100_001}]), "more than 100,000 characters"),
        (body(messages=[{**USER, "content": "\ud800"}]), "a text is not Unicode"),
        (body(max_tokens=0), "max_tokens: got 0"),
        (body(max_tokens=True), "max_tokens: got True"),
        (body(max_tokens=1.5), "max_tokens: got 1.5"),
        (body(stream="yes"), "stream: got 'yes'"),
        (body(stream_options=[1]), "stream_options: got a list"),
        (body(n=2), "n: got 2"),
        (body(tools=[{}]), "tools: is not supported"),
        (body(stop="."), "stop: is not supported"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(asked: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_request(asked)
