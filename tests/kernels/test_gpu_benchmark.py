"""The GPU benchmarks' bookkeeping and counting, which need no GPU."""

import json
import sys

import pytest
import torch

from benchmarks import gpu


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """`benchmarks.gpu` on a GPU that is not there; returns the file of its figures."""
    path = tmp_path / "results" / "figures.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--largest", "--out", str(path)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Pretended GPU")
    backends = {"triton": None, "cuda": "no CUDA here"}
    monkeypatch.setattr("univa_kernels.available_backends", lambda: backends)
    return path


def test_a_run_that_is_stopped_leaves_what_it_had(pretended, monkeypatch):
    def measure(backend, rows, dim):
        yield {"forward / bare product": 0.9}
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        gpu.main()
    kept = json.loads(pretended.read_text())
    assert kept["triton"] == {"forward / bare product": 0.9}
    assert kept["gpu"] == "Pretended GPU"
    assert list(pretended.parent.iterdir()) == [pretended]


def test_figures_go_beside_those_of_the_suite_not_over_them(pretended, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "RESULTS", tmp_path, raising=False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(gpu, "measure", lambda *_: iter([{"forward": 1.0}]))
    gpu.main()
    assert [path.name for path in tmp_path.iterdir()] == ["pretended-gpu-kernels.json"]


@pytest.mark.parametrize(
    ("ratio", "rows", "missed"),
    [
        (0.9, 1 << 22, None),
        (1.1, 1 << 20, "forward / bare product"),
        (0.6, 1 << 19, "largest N at D = 256 in 16 GB"),
    ],
)
def test_figures_are_judged_and_the_last_largest_counts(
    pretended, monkeypatch, capsys, ratio, rows, missed
):
    name = "largest N at D = 256 in 16 GB"
    monkeypatch.setattr(gpu, "measure", lambda *_: iter([{"forward / bare product": ratio}]))
    monkeypatch.setattr(gpu, "largest", lambda *_: iter([{name: 1 << 15}, {name: rows}]))
    if missed is None:
        gpu.main()
    else:
        with pytest.raises(SystemExit, match=f"missed: {missed}$"):
            gpu.main()
    assert "must 1: " + ("MISSED" if ratio > 1 else "reached") in capsys.readouterr().out
    assert json.loads(pretended.read_text())["triton"][name] == rows


def test_tiles_that_may_hold_a_positive_are_counted_right(monkeypatch):
    """Against every pair: no tile with a positive is left out, and sorting leaves fewer."""
    pytest.importorskip("triton")
    from benchmarks import sorted_tiles

    monkeypatch.setattr(sorted_tiles, "TILE", (16, 8))
    points = sorted_tiles.distributions(512)["gaussian"]
    order = sorted_tiles.morton_order(points[None])[0]
    shares = []
    for coordinates in (points, points[order]):
        shares.append(sorted_tiles.near_share(coordinates))
        positive = torch.cdist(coordinates, coordinates) < sorted_tiles.RADIUS
        tiles = positive.view(32, 16, 64, 8).any(3).any(1)  # [row tiles, column tiles]
        counted = torch.arange(64)[None] >= 2 * torch.arange(32)[:, None]
        assert tiles[counted].double().mean() <= shares[-1] <= 1
    assert shares[1] < 0.5 * shares[0]
