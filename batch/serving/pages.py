"""The pages of a server and of a prompt: those of batch/report, with a box to ask."""

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

from batch.answering import Answer
from batch.report.archives import Work, archive_page
from batch.report.pages import AnsweredVideo, ShownAnswer, answers_page, video_page
from batch.report.videos import VideoReport
from batch.serving.library import Video


def of_all(videos: Sequence[Video]) -> str:
    """The list of all videos, which links to their pages."""
    rows = [video.facts for video in videos]
    links = {video.facts["cache"]: address(video) for video in videos}
    what = f"{len(videos):,} that can be asked"
    return archive_page([Work(rows=rows)], links, title="Videos", subtitle=what)


def of_video(video: Video) -> str:
    """One video, and a box to ask it."""
    found = replace(VideoReport.read(video.cache), cache=video.cache.name)
    return video_page(found, up="/", ask=address(video))


def of_answers(video: Video, answers: Sequence[Answer], *, served: bool = True) -> str:
    """Answers and what each rests on; if it is served, with links and a box to ask more."""
    page = address(video) if served else None
    shown = [ShownAnswer.of(answer) for answer in answers]
    return answers_page(
        [AnsweredVideo(video=VideoReport.read(video.cache), answers=shown, page=page)],
        title=answers[-1].question,
        up="/" if served else None,
        ask=page,
    )


def address(video: Video) -> str:
    """Of its page."""
    return f"/videos/{quote(video.id)}"
