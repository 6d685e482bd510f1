"""Questions about videos, with their true answers: drawn films, files of one's own, benchmarks.

Knows no model. Nothing is downloaded.
"""

from batch.evaluation.data.demo import demo_set
from batch.evaluation.data.question_set import Question, QuestionSet, read_set

__all__ = ["Question", "QuestionSet", "demo_set", "read_set"]
