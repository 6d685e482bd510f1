"""Which families score as transformers' own forward does, and with which of its versions.

`tests/cli/test_models.py` holds this to the tests that are there and to the version they run with.
"""

TRANSFORMERS = "5.23.0"
"""Another version may lay out prompts or pictures differently."""

PARITY_TESTED = frozenset(
    {
        "internvl",
        "llava",
        "llava_next",
        "llava_next_video",
        "llava_onevision",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_vl",
        "smolvlm",
    }
)
