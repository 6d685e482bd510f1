"""The bundled checkpoint is an ordinary one, small enough to ship."""

from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor

import batch.models

FOLDER = Path(batch.models.__file__).parent / "demo"


def test_the_auto_classes_load_it() -> None:
    model = AutoModelForImageTextToText.from_pretrained(FOLDER, local_files_only=True)
    processor = AutoProcessor.from_pretrained(FOLDER, local_files_only=True)
    assert model.config.model_type == "llava_next"
    assert (
        model.config.text_config.num_key_value_heads < model.config.text_config.num_attention_heads
    )
    assert processor.chat_template


def test_it_is_at_most_12_mb_and_has_a_model_card() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12_000_000
    assert "seed" in (FOLDER / "README.md").read_text()
