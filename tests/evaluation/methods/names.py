"""What methods are called in tests."""

from batch.evaluation.methods import Method


def name(method: Method) -> str:
    return f"{method.name} {method.profile or ''}".strip()
