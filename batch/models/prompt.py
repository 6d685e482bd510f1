"""Where pictures stand in the text of a conversation. Knows no model family."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batch.errors import ModelError


def texts_around(
    name: str, token_ids: NDArray[np.int64], picture_id: int, pictures: int
) -> list[NDArray[np.int64]]:
    """The text before, between and behind the pictures of a conversation.

    Args:
        name: the checkpoint, for errors.
        picture_id: the token that stands for a picture, or for a whole video.
        pictures: how many of them were sent.

    Returns:
        `pictures` + 1 arrays of token ids, without the pictures' own.

    Raises:
        ModelError: the chat template leaves out a picture, or the tokenizer does not know its
            token.
    """
    places = np.flatnonzero(token_ids == picture_id)
    if len(places) != pictures:
        raise ModelError(
            f"{name}: the chat template gives {len(places)} tokens {picture_id} "
            f"for {pictures} pictures"
        )
    before, *others = np.split(token_ids, places)
    return [before, *(text[1:] for text in others)]


def split_before_first(
    before: NDArray[np.int64], plain: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part the text before the first picture: what stands before any video, and what is its own.

    Args:
        before: token ids of the whole text.
        plain: those of a conversation that tells nothing of the picture, up to the same place.

    Returns:
        The tokens that both begin with, and the rest of `before`, which is about the picture; a
        token in which they run into each other is of the rest.
    """
    longest = min(len(before), len(plain))
    differs = np.append(before[:longest] != plain[:longest], True)
    shared = int(np.argmax(differs))
    return before[:shared], before[shared:]


def before_pictures(text: str, picture: str, inserted: Sequence[str]) -> str:
    """A conversation with something put before its first pictures, one piece for each.

    Args:
        picture: the text that stands for a picture.
    """
    done = ""
    for piece in inserted:
        before, found, text = text.partition(picture)
        done += before + piece + found
    return done + text
