"""OpenAI's chat completions over videos: what a request may say, and the shape of what goes back.

Knows JSON, no HTTP and no model. Source: OpenAI's API reference, "Chat Completions"; a video in a
message is named as vLLM has it, by a part of type "video_url".
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from batch.answering import Answer

MOST_MESSAGES = 64
MOST_CHARACTERS = 100_000
"""Of all messages together; what fits the model's context is told when it is tried."""

_WANTED = ("tools", "functions", "logprobs", "stop", "response_format")
"""Would change the answer, and is not done. What only steers sampling is passed over: answers are
greedy."""


class RequestError(Exception):
    """What is asked for cannot be; the message says why, and `param` where."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A conversation about a video, to be continued.

    `video` is as the client called it; `turns` are question, answer, question, ...; `limit` is the
    most tokens, None: as many as the server allows.
    """

    video: str
    turns: tuple[str, ...]
    limit: int | None
    streams: bool
    tells_usage: bool


def parse_request(body: bytes) -> ChatRequest:
    """Read the body of a request; a RequestError says what is wrong with it."""
    try:
        asked = json.loads(body)
    except (UnicodeError, ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}") from error
    if not isinstance(asked, dict):
        raise RequestError(f"the body: got {_kind(asked)}, expected an object")
    for name in _WANTED:
        if asked.get(name) and asked[name] != {"type": "text"}:
            raise RequestError(f"{name}: is not supported", name)
    if asked.get("n", 1) not in (1, None):
        raise RequestError(f"n: got {asked['n']!r}, supported is 1: answers are greedy", "n")
    turns, video = _turns(asked.get("messages"))
    model = asked.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError("model: expected a text, the id of a video", "model")
    options = asked.get("stream_options") or {}
    if not isinstance(options, dict):
        raise RequestError(f"stream_options: got {_kind(options)}", "stream_options")
    return ChatRequest(
        video=video or model,
        turns=turns,
        limit=_limit(asked),
        streams=_flag(asked, "stream"),
        tells_usage=_flag(options, "include_usage"),
    )


def _turns(messages: object) -> tuple[tuple[str, ...], str | None]:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MOST_MESSAGES:
        raise RequestError(f"messages: expected a list of 1 to {MOST_MESSAGES}", "messages")
    turns, video = [], None
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        expected = "assistant" if number % 2 else "user"
        role = message.get("role") if isinstance(message, dict) else None
        if role in ("system", "developer"):
            raise RequestError(
                f"{where}: a {role} message stands before the video, which was read long ago; "
                "put it into the first question",
                "messages",
            )
        if role != expected:
            raise RequestError(f"{where}: role: got {role!r}, expected {expected!r}", "messages")
        text, named = _content(message.get("content"), where)
        if named is not None and number:
            raise RequestError(f"{where}: only the first message may name a video", "messages")
        video = video or named
        turns.append(text)
    if len(turns) % 2 == 0:
        raise RequestError("messages: the last one must be the user's", "messages")
    try:
        "".join(turns).encode()
    except UnicodeError as error:  # JSON may hold half of a character
        raise RequestError("messages: a text is not Unicode", "messages") from error
    if sum(map(len, turns)) > MOST_CHARACTERS:
        raise RequestError(f"messages: more than {MOST_CHARACTERS:,} characters", "messages")
    return tuple(turns), video


def _content(content: object, where: str) -> tuple[str, str | None]:
    """The text of a message, and the video that it names."""
    if isinstance(content, str):
        return content, None
    if not isinstance(content, list):
        raise RequestError(f"{where}: content: got {_kind(content)}, expected a text", "messages")
    texts, video = [], None
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "video_url" and isinstance(part.get("video_url"), dict):
            video = part["video_url"].get("url")
            if not isinstance(video, str):
                raise RequestError(f"{where}: video_url: expected the id of a video", "messages")
        else:
            raise RequestError(
                f"{where}: content: got a part {kind!r}, expected text, or video_url with an id",
                "messages",
            )
    return "\n".join(texts), video


def _limit(asked: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = asked.get(name)
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise RequestError(f"{name}: got {limit!r}, expected a number above 0", name)
        return limit
    return None


def _flag(asked: Mapping[str, Any], name: str) -> bool:
    value = asked.get(name) or False
    if not isinstance(value, bool):
        raise RequestError(f"{name}: got {value!r}, expected true or false", name)
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


class Completion:
    """The answer to one request, as it goes back whole or in chunks.

    Tokens of the prompt are those of the conversation with all that the template puts around it;
    the video's are none: they were computed when its cache was made.
    """

    def __init__(self, model: str) -> None:
        self._common = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, answer: Answer, prompt_tokens: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _end(answer)}
        return {
            **self._common,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(answer, prompt_tokens),
            **_evidence(answer),
        }

    def first(self) -> dict[str, Any]:
        return self._chunk([_choice({"role": "assistant", "content": ""})])

    def more(self, text: str) -> dict[str, Any]:
        return self._chunk([_choice({"content": text})])

    def last(self, answer: Answer) -> dict[str, Any]:
        return {**self._chunk([_choice({}, _end(answer))]), **_evidence(answer)}

    def usage(self, answer: Answer, prompt_tokens: int) -> dict[str, Any]:
        return {**self._chunk([]), "usage": _usage(answer, prompt_tokens)}

    def _chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {**self._common, "object": "chat.completion.chunk", "choices": list(choices)}


def error_body(message: str, *, kind: str, param: str | None = None) -> dict[str, Any]:
    """What goes back instead of an answer."""
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def _choice(delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish_reason}


def _end(answer: Answer) -> str:
    return "stop" if answer.complete else "length"


def _usage(answer: Answer, prompt_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": prompt_tokens + answer.tokens,
    }


def _evidence(answer: Answer) -> dict[str, Any]:
    """What OpenAI's answers do not have: the times of the video that this one rests on."""
    return {"evidence": [asdict(one) for one in answer.evidence]}
