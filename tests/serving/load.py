"""What a loaded server gives: the first word of an answer, and many clients at once.

`python -m tests.serving.load --clients 32` draws a film, writes its cache with the bundled model,
serves it, and prints what it measured. The machine must be idle.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import click

from tests import clips

ROOT = Path(__file__).parents[2]
MOST_TOKENS = 16


def batch(*words: object) -> list[str]:
    return [sys.executable, "-m", "batch", *map(str, words)]


def asked(address: str, video: str, question: str) -> tuple[float, float]:
    """Seconds until the first word, and until the end, of a streamed answer."""
    where = urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=600)
    message = {"role": "user", "content": question}
    body = {"model": video, "messages": [message], "stream": True, "max_tokens": MOST_TOKENS}
    began_s = time.perf_counter()
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
    )
    response = connection.getresponse()
    first_s = 0.0
    for line in response:
        if not first_s and b'"content": "' in line and b'"content": ""' not in line:
            first_s = time.perf_counter() - began_s
    connection.close()
    if response.status != 200:
        raise click.ClickException(f"status {response.status}")
    return first_s, time.perf_counter() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        film = Path(temporary) / "film.mp4"
        clips.write_clip(film, clips.moving(300, height_px=240, width_px=320, step_px=2))
        made = batch("prefill", film, "--out", temporary, "--model", chosen.model)
        subprocess.run(made, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        served = batch("serve", film.with_suffix(".safetensors"), "--port", 0)
        with subprocess.Popen(served, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            try:
                if server.stdout is None:
                    raise click.ClickException("the server says nothing")
                address = server.stdout.readline().strip()
                click.echo(json.dumps(measured(address, chosen.clients, chosen.rounds)))
            finally:
                server.terminate()


def measured(address: str, clients: int, rounds: int) -> dict[str, float]:
    where = urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=600)
    connection.request("GET", "/v1/models")
    (video,) = json.loads(connection.getresponse().read())["data"]
    questions = [f"what shape is number {number} in the film ?" for number in range(clients)]
    asked(address, video["id"], questions[0])  # loads the cache
    firsts, alone_s, together_s = [], [], []
    for _ in range(rounds):
        began_s = time.perf_counter()
        firsts += [asked(address, video["id"], question)[0] for question in questions]
        alone_s.append(time.perf_counter() - began_s)
        with ThreadPoolExecutor(clients) as pool:
            began_s = time.perf_counter()
            list(pool.map(lambda question: asked(address, video["id"], question), questions))
            together_s.append(time.perf_counter() - began_s)
    return {
        "clients": clients,
        "first_word_ms": round(1000 * statistics.median(firsts), 1),
        "one_by_one_a_second": round(clients / min(alone_s), 1),
        "together_a_second": round(clients / min(together_s), 1),
        "times_as_fast": round(min(alone_s) / min(together_s), 2),
    }


if __name__ == "__main__":
    main()
