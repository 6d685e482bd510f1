"""CachePlan, the first answer and many answers, with a cache and without."""

from itertools import cycle, islice

from batch.evaluation.bench.measuring import (
    Found,
    peak_allocated,
    peak_resident,
    ratio,
    seconds,
    side_by_side,
)
from batch.evaluation.bench.subject import Film, Subject
from batch.evaluation.uncompressed import Uncompressed
from batch.making.cache_plan import CachePlan

QUESTIONS = 64


def measure_films(subject: Subject, repeats: int) -> Found:
    """Time of prefill and of the first answer, all films together, each way in turn."""
    taken: dict[str, list[float]] = {}
    for _ in range(repeats):
        total: dict[str, float] = {}
        for film in subject.films:
            for name, took in _one_film(subject, film).items():
                total[name] = total.get(name, 0.0) + took
        for name, took in total.items():
            taken.setdefault(name, []).append(took)
    from_video = [
        prefill + answer
        for prefill, answer in zip(
            taken["uncompressed_seconds"], taken["uncompressed_answer_seconds"], strict=True
        )
    ]
    ratios = {
        "prefill_time": ratio(taken["compressed_seconds"], taken["uncompressed_seconds"]),
        "first_answer_speedup": ratio(from_video, taken["file_answer_seconds"]),
    }
    return ratios, taken


def _one_film(subject: Subject, film: Film) -> dict[str, float]:
    works: list[CachePlan] = []
    full: list[Uncompressed] = []
    question, most = film.questions[:1], subject.size.answer_tokens
    compressed = seconds(lambda: works.append(subject.compress(film)))
    cost = works[0].manifest.analyze_seconds
    return {
        "compressed_seconds": compressed,
        "analyze_seconds": cost,
        "file_answer_seconds": seconds(lambda: subject.answer_from_file(film)),
        "uncompressed_seconds": seconds(lambda: full.append(subject.uncompressed(film))),
        "uncompressed_answer_seconds": seconds(
            lambda: full[0].ask_all(question, max_new_tokens=most)
        ),
    }


def measure_memory(subject: Subject) -> Found:
    """Peak of K, V and activations above the weights while the first film is prefilled."""
    film = subject.films[0]
    works = {
        "compressed": lambda: subject.compress(film),
        "uncompressed": lambda: subject.uncompressed(film),
    }
    allocated = {name: peak_allocated(work, subject.size.device) for name, work in works.items()}
    resident = {name: peak_resident(work) for name, work in works.items()}
    ratios = {"prefill_peak_memory": allocated["compressed"] / allocated["uncompressed"]}
    return ratios, {"peak_allocated_bytes": allocated, "peak_resident_bytes": resident}


def measure_batch(subject: Subject, repeats: int) -> Found:
    """Many questions in one batch against the same one by one, on the same cache."""
    film = subject.films[0]
    questions = list(islice(cycle(film.questions), QUESTIONS))
    answerer = subject.answerer(film)

    def answer(batch_size: int) -> None:
        most = subject.size.answer_tokens
        list(answerer.ask_all(questions, max_new_tokens=most, batch_size=batch_size))

    taken = side_by_side(
        {"batch_seconds": lambda: answer(QUESTIONS), "one_by_one_seconds": lambda: answer(1)},
        repeats,
    )
    speedup = ratio(taken["one_by_one_seconds"], taken["batch_seconds"])
    return {"batch64_speedup": speedup}, {"questions": QUESTIONS, **taken}
