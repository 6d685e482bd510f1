"""A server as a real process: many clients, some of them hostile, none harms another."""

import base64
import http.client
import json
import multiprocessing
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from batch.cli import main
from batch.serving.library import Library
from jobs.stopping import SIGNALS
from tests.cli.running import batch, objects, succeed
from tests.serving.conftest import MOST_TOKENS

TOKEN = "a token of this test"
QUESTION = "what is the red star doing ?"
AUTH = {"authorization": f"Bearer {TOKEN}"}
AS_JSON = {**AUTH, "content-type": "application/json"}
AS_FORM = {**AUTH, "content-type": "application/x-www-form-urlencoded"}
CHAT = "/v1/chat/completions"


class Got(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def object(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Server(NamedTuple):
    port: int
    videos: list[str]

    def get(self, path: str, headers: dict[str, str] = AUTH) -> Got:
        return self.send("GET", path, None, headers)

    def chat(self, video: str, *turns: str, **more: Any) -> Got:
        roles = ("user", "assistant") * len(turns)
        messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns)]  # noqa: B905
        body = json.dumps({"model": video, "messages": messages, **more}).encode()
        return self.send("POST", CHAT, body, AS_JSON)

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Got:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Got(response.status, response.headers, response.read())
        finally:
            connection.close()

    def raw(self, said: bytes, *, reads: int) -> bytes:
        """What comes back to some bytes, so much of it; then the connection is cut."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=120) as connection:
            connection.sendall(said)
            found = b""
            while len(found) < reads and (more := connection.recv(reads - len(found))):
                found += more
            return found


def _serve(*words: object) -> None:
    # Processes are forked from one that was perhaps started while these were held back.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    main([str(word) for word in words])


@pytest.fixture(scope="module")
def server(caches: Path) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("serve", caches, "--port", port, "--max-new-tokens", MOST_TOKENS, "--token", TOKEN)
    process = multiprocessing.get_context("forkserver").Process(target=_serve, args=words)
    process.start()
    found = Server(port, [video.id for video in Library(caches)])
    until = time.monotonic() + 300
    while time.monotonic() < until and process.is_alive():
        try:
            found.get("/v1/models")
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            break
    yield found
    was_alive = process.is_alive()
    process.terminate()
    process.join(60)
    ended = process.exitcode
    process.kill()
    assert (was_alive, ended) == (True, -signal.SIGTERM)


def events(got: Got) -> list[dict[str, Any]]:
    lines = [line for line in got.body.decode().split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return objects(line.removeprefix("data: ") for line in lines)


def test_a_completion_has_openai_s_shape_and_the_answer_of_the_cache(
    server: Server, caches: Path
) -> None:
    got = server.chat(server.videos[0], QUESTION)
    command = ("answer", caches / "a.safetensors", "-q", QUESTION, "--json")
    (expected,) = objects(succeed(*command, "--max-new-tokens", MOST_TOKENS))
    found = got.object
    assert (got.status, got.headers["content-type"]) == (200, "application/json")
    assert found.pop("id").startswith("chatcmpl-")
    assert abs(found.pop("created") - time.time()) < 600
    usage = found.pop("usage")
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == expected["tokens"]
    assert usage["prompt_tokens"] > len(QUESTION.split())
    assert found == {
        "object": "chat.completion",
        "model": server.videos[0],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": expected["answer"], "refusal": None},
                "logprobs": None,
                "finish_reason": "stop" if expected["complete"] else "length",
            }
        ],
        "evidence": expected["evidence"],
    }


def test_a_stream_has_the_same_in_parts(server: Server) -> None:
    turns = (QUESTION, "a b", "and c ?")
    whole = server.chat(server.videos[0], *turns).object
    got = server.chat(server.videos[0], *turns, stream=True, stream_options={"include_usage": True})
    assert got.headers["content-type"].startswith("text/event-stream")
    first, *parts, last, usage = events(got)
    assert {event["object"] for event in (first, *parts, last, usage)} == {"chat.completion.chunk"}
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    content = [part["choices"][0]["delta"]["content"] for part in parts]
    (choice,) = whole["choices"]
    assert "".join(content) == choice["message"]["content"]
    assert len(content) > 1
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    assert last["evidence"] == whole["evidence"]


def test_videos_are_listed_and_a_message_may_name_one(server: Server) -> None:
    models = server.get("/v1/models").object
    assert [model["id"] for model in models["data"]] == server.videos
    assert {model["object"] for model in models["data"]} == {"model"}
    videos = server.get(f"/v1/models?after={server.videos[0]}").object
    assert [video["name"] for video in videos["data"]] == ["b.mp4"]
    part = {"type": "video_url", "video_url": {"url": server.videos[1]}}
    message = {"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}
    body = json.dumps({"model": "any", "messages": [message]}).encode()
    named = server.send("POST", CHAT, body, AS_JSON).object
    assert named["choices"] == server.chat(server.videos[1], QUESTION).object["choices"]


def test_clients_at_once_get_what_each_alone_gets(server: Server) -> None:
    asked = [
        (video, f"{QUESTION} {word}", stream)
        for video in server.videos
        for word in "abc"
        for stream in (False, True)
    ]

    def content(video: str, question: str, stream: bool) -> str:
        got = server.chat(video, question, stream=stream)
        if not stream:
            return str(got.object["choices"][0]["message"]["content"])
        parts = [choice["delta"] for event in events(got) for choice in event["choices"]]
        return "".join(part.get("content", "") for part in parts)

    alone = [content(*one) for one in asked]
    with ThreadPoolExecutor(len(asked)) as clients:
        together = list(clients.map(lambda one: content(*one), asked))
    assert together == alone
    assert len(set(alone)) > 1


def test_pages_have_a_box_whose_answer_is_a_page(server: Server) -> None:
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    home = server.get("/", {"authorization": f"Basic {basic}"})
    assert (home.status, home.headers["cache-control"]) == (200, "no-store")
    page = f"/videos/{server.videos[0]}"
    assert f'href="{page}"' in home.body.decode()
    shown = server.get(page).body.decode()
    assert f'method="post" action="{page}"' in shown
    got = server.send("POST", page, urlencode({"question": QUESTION}).encode(), AS_FORM)
    answer = server.chat(server.videos[0], QUESTION).object["choices"][0]["message"]["content"]
    assert got.status == 200
    assert QUESTION in got.body.decode()
    assert answer in got.body.decode()
    long = server.send("POST", page, urlencode({"question": "a" * 100_001}).encode(), AS_FORM)
    assert (long.status, "100,000 characters" in long.object["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/v1/models", {}, None, 401),
        ("GET", "/", {"authorization": "Bearer wrong"}, None, 401),
        ("GET", "/", {"authorization": "Basic !!"}, None, 401),
        ("GET", "/", {"authorization": "Bearer \xe9"}, None, 401),
        ("GET", "/", {**AUTH, "host": "evil.example"}, None, 421),
        ("GET", "/", {**AUTH, "host": "[::1"}, None, 421),
        ("POST", CHAT, {**AS_JSON, "origin": "http://evil.example"}, b"{}", 403),
        ("POST", CHAT, {**AS_JSON, "origin": "http://[::1"}, b"{}", 403),
        ("POST", CHAT, {**AS_JSON, "origin": "null"}, b"{}", 403),
        ("GET", "/etc/passwd", AUTH, None, 404),
        ("GET", "/../../etc/passwd", AUTH, None, 404),
        ("GET", "/videos/..%2f..%2fetc%2fpasswd", AUTH, None, 404),
        ("GET", "/videos/../a.safetensors", AUTH, None, 404),
        ("GET", "/videos/a.mp4", AUTH, None, 404),
        ("GET", "/v1/models?after=none", AUTH, None, 400),
        ("DELETE", CHAT, AUTH, None, 405),
        ("POST", CHAT, AUTH, b"{}", 400),
        ("POST", CHAT, AS_JSON, b"{", 400),
        ("POST", CHAT, AS_JSON, b"[" * 50_000, 400),
        ("POST", CHAT, AS_JSON, b" " * 1_100_000, 400),
        (
            "POST",
            CHAT,
            AS_JSON,
            b'{"model":"../a","messages":[{"role":"user","content":"a"}]}',
            404,
        ),
        ("POST", "/videos/none", AS_FORM, b"question=a", 404),
        ("POST", "/videos/none", AS_JSON, b"question=a", 404),
    ],
)
def test_what_is_malformed_is_refused_in_json(
    server: Server, method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    got = server.send(method, path, body, headers)
    assert got.status == status, got.body
    assert got.object["error"]["message"]


@pytest.mark.parametrize("question", [" ", "a <image> ?", "a " * 2_000])
def test_a_question_that_cannot_be_asked_is_a_bad_request(server: Server, question: str) -> None:
    got = server.chat(server.videos[0], question, stream=True)
    error = got.object["error"]
    assert (got.status, error["type"]) == (400, "invalid_request_error")
    assert "/" not in error["message"]  # no folder of the server


def test_connections_that_break_harm_nobody(server: Server) -> None:
    body = json.dumps(
        {
            "model": server.videos[0],
            "messages": [{"role": "user", "content": QUESTION}],
            "stream": True,
        }
    )
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    broken = [b"", b"\x16\x03\x01\x00", b"GET / HTTP/9\r\n\r\n", b"a" * 100_000]
    broken += [head.encode(), (head + body)[:-10].encode(), (head + body).encode()]
    with ThreadPoolExecutor(2 * len(broken)) as clients:
        harmless = [
            clients.submit(server.chat, video, QUESTION) for video in server.videos for _ in "ab"
        ]
        for said in broken:
            clients.submit(server.raw, said, reads=0)
        streamed = clients.submit(server.raw, (head + body).encode(), reads=20)
        assert streamed.result() == b"HTTP/1.1 200 OK\r\ndat"
        assert [one.result().status for one in harmless] == [200] * 4
    assert server.chat(server.videos[0], QUESTION).status == 200


def test_without_its_extra_an_error_says_how_to_get_it(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = batch("serve", caches)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "uvicorn is not installed: pip install" in result.stderr


def test_an_address_that_others_reach_needs_a_token(caches: Path) -> None:
    for host in ("0.0.0.0", "::", "example.org"):
        result = batch("serve", caches, "--host", host)
        assert (result.exit_code, "so it needs a token" in result.stderr) == (2, True)
    assert batch("serve", caches, "--token", " ").exit_code == 2
