"""The authors' metrics, as they round them."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from univa.metrics import compute_metrics


def test_the_authors_numbers(golden: Path):
    tensors = load_file(golden / "metrics.safetensors")
    expected = json.loads((golden / "metrics.json").read_text())
    metrics = compute_metrics(tensors["predictions"], tensors["labels"], tuple("abcdef"))
    rounded = {
        "acc": 100 * round(metrics.accuracy, 4),
        "hamming_loss": round(metrics.hamming_loss, 4),
        "micro_f1": 100 * round(metrics.micro_f1, 4),
        "macro_f1": 100 * round(metrics.macro_f1, 4),
    }
    for name, value in rounded.items():
        # The last digit is theirs; a product with 100 is a float's last bit off.
        assert value == pytest.approx(expected[name], rel=1e-12), name
    assert metrics.accuracy != round(metrics.accuracy, 4)
