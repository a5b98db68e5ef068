"""Fixtures of the model's tests."""

from pathlib import Path

import pytest
import torch

from tests.models.tiny import tiny_encoder


@pytest.fixture(params=["bert", "roberta"])
def encoder_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a saved random encoder."""
    torch.manual_seed(5)
    folder = tmp_path / f"{request.param}-tiny"
    tiny_encoder(request.param).save_pretrained(folder)
    return folder
