"""The authors' metrics, as they round them."""

import json
from pathlib import Path

from safetensors.torch import load_file

from univa.metrics import compute_metrics


def test_the_authors_numbers(golden: Path):
    tensors = load_file(golden / "metrics.safetensors")
    expected = json.loads((golden / "metrics.json").read_text())
    metrics = compute_metrics(tensors["predictions"], tensors["labels"], tuple("abcdef"))
    assert round(100 * round(metrics.accuracy, 4), 2) == expected["acc"]
    assert round(metrics.hamming_loss, 4) == expected["hamming_loss"]
    assert round(100 * round(metrics.micro_f1, 4), 2) == expected["micro_f1"]
    assert round(100 * round(metrics.macro_f1, 4), 2) == expected["macro_f1"]
    assert metrics.accuracy != round(metrics.accuracy, 4)
