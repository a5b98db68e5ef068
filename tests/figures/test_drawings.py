"""What the figures show, and that it can be read at column width."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from univa.batch import MODALITIES
from univa.data.lexicon import similarity_matrix
from univa.errors import UserError
from univa.figures import cli, matrices
from univa.figures.curves import draw_thresholds, draw_training
from univa.figures.maps import draw_map, lay_out, show_emotion
from univa.figures.sample import choose_utterances, load_corpora, sample_training
from univa.figures.style import COLUMN_WIDTH, THEMES, themed, va_colors
from univa.runs.read import names_of, read_run


def test_co_occurrence():
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    found = matrices.co_occurrence(labels)
    expected = [[1, 2 / 3, 0], [2 / 3, 1, 0], [np.nan] * 3]
    np.testing.assert_allclose(found, expected)


def test_the_rarest_emotion_is_shown():
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 1], [0, 1, 1]]).bool()
    # counts: 3, 3, 3 at first; make the second rarest
    labels[4, 1] = False
    assert show_emotion(labels).tolist() == [1, 0, -1, 0, 2, 1]


def test_the_map_is_the_same_every_time_and_keeps_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3).repeat_interleave(20, 0) * 8
    embeddings = torch.cat([centres, torch.zeros(60, 5)], 1)
    embeddings += 0.1 * torch.randn(60, 8, generator=generator)
    places = lay_out(embeddings)
    assert np.array_equal(places, lay_out(embeddings))
    assert np.abs(places).max() == pytest.approx(1)
    kind = np.repeat(np.arange(3), 20)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (kind[apart.argmin(axis=1)] == kind).all()
    with pytest.raises(UserError, match="at least 5 training utterances, there are 4"):
        lay_out(embeddings[:4])


def test_a_sample_is_drawn_once_and_embedded_in_order(pair):
    assert choose_utterances(5, 9).tolist() == [0, 1, 2, 3, 4]
    some = choose_utterances(100, 10)
    assert some.tolist() == sorted(set(some.tolist()))
    runs = [read_run(folder) for folder in pair]
    corpora = load_corpora(runs)
    cpu = torch.device("cpu")
    whole = sample_training(runs, corpora, limit=10**6, device=cpu)
    part = sample_training(runs, corpora, limit=20, device=cpu)
    chosen = choose_utterances(whole.total, 20)
    assert [u.id for u in part.utterances] == [whole.utterances[i].id for i in chosen]
    for full, some_of_it in zip(whole.embeddings, part.embeddings, strict=True):
        for name, values in some_of_it.items():
            torch.testing.assert_close(values, full[name][chosen])  # whichever the batches
    torch.testing.assert_close(part.coordinates["audio"], whole.coordinates["audio"][chosen])
    assert len(part.first(7)) == 7


def test_correlations_are_those_of_before_and_after(pair):
    runs = [read_run(folder) for folder in pair]
    found = matrices.correlations(runs, ["a", "b"])
    assert list(found) == ["before training", "after a", "after b"]
    names = runs[0].label_names
    np.testing.assert_array_equal(found["before training"], similarity_matrix(names).numpy())
    assert np.abs(found["after b"] - found["before training"]).max() > 1e-4


def test_the_matrix_before_training_is_of_the_runs_own_lexicon(pair, tmp_path: Path):
    run = read_run(pair[0])
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(len(run.label_names), 2, generator=generator).tolist()
    path = tmp_path / "lexicon.txt"
    lines = [
        f"{n}\t{v:.3f}\t{a:.3f}\t0.5\n" for n, (v, a) in zip(run.label_names, scores, strict=True)
    ]
    path.write_text("".join(lines))
    data = replace(run.config.data, lexicon=str(path))
    run = replace(run, config=replace(run.config, data=data))
    found = matrices.correlations([run], ["run"])["before training"]
    unit = np.array(scores).round(3)
    unit = 2 * (unit - unit.min(0)) / (unit.max(0) - unit.min(0)) - 1
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(found, unit @ unit.T, atol=1e-6)


def _check_readable(figure, name: str) -> None:
    """85 mm wide; no letter below 7 pt, beyond the edge, or on another one or a legend's."""
    texts: dict[Text, None] = {}
    plain = Text.draw

    def recorded(text, *args, **options):  # what is drawn: an axis has labels that are not
        if text.get_visible() and text.get_text().strip():
            texts[text] = None
        plain(text, *args, **options)

    canvas = FigureCanvasAgg(figure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", recorded)
        canvas.draw()
    assert figure.get_figwidth() == COLUMN_WIDTH == 85 / 25.4
    assert figure.get_figheight() < 240 / 25.4
    boxes = []
    assert len(texts) > 5
    for text in texts:
        assert text.get_fontsize() >= 7, (name, text.get_text())
        box = text.get_window_extent(canvas.get_renderer())
        inside = box.x0 >= -1 and box.y0 >= -1
        inside &= box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, (name, text.get_text())
        if text.get_rotation() in (0, 90):  # the box of a slanted name is mostly empty
            boxes.append((text.get_text(), box))
    for (a, one), (b, other) in itertools.combinations(boxes, 2):
        wide = min(one.x1, other.x1) - max(one.x0, other.x0)
        high = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(wide, high) <= 1, (name, a, b)


@pytest.mark.parametrize("count", [1, 2])
def test_every_figure_can_be_read(pair: tuple[Path, Path], count: int):
    runs = [read_run(folder) for folder in pair[:count]]
    names = names_of(runs)
    sample = sample_training(runs, load_corpora(runs), limit=100, device=torch.device("cpu"))
    found = cli.measure_sample(sample, neighbors=5, radius=0.3)
    places, shown = cli.lay_out_sample(sample, 40)
    with themed(THEMES[0]):
        drawings = cli._all(runs, names, THEMES[0], sample, found, places, shown)
        for name, draw in drawings:
            _check_readable(draw(), name)
    assert [name for name, _ in drawings] == [
        *("map-emotion", "map-valence-arousal", "correlation"),
        *("training", "thresholds", "co-occurrence"),
    ]


@pytest.mark.parametrize("count", [7, 9, 14, 28])
def test_figures_of_many_emotions_can_be_read(count: int):
    names = [f"emotion{i}" if i % 4 else f"disappointment{i}" for i in range(count)]
    labels = torch.rand(60, count, generator=torch.Generator().manual_seed(0)) < 0.3
    together = {"true": matrices.co_occurrence(labels), "predicted": np.full([count] * 2, -0.88)}
    places = {"text": np.random.default_rng(0).uniform(-1, 1, (60, 2))}
    theme = THEMES[0]
    with themed(theme):
        _check_readable(matrices.draw_correlations(together, names, theme), "correlation")
        _check_readable(matrices.draw_co_occurrence(together, names, theme), "co-occurrence")
        figure = draw_map(
            [places],
            ["run"],
            ["text"],
            [{}],
            theme,
            labels=labels,
            label_names=names,
            coordinates=None,
        )
        _check_readable(figure, "map")


def test_legends_are_above_the_curves(pair):
    run = read_run(pair[0])
    rising = [{**line, "loss": float(k)} for k, line in enumerate(run.steps)]
    high = {
        split: {key: [1.0] * len(values) for key, values in curves.items() if key != "label_f1"}
        | {"threshold": curves["threshold"]}
        for split, curves in run.threshold_curves.items()
    }
    run = replace(run, steps=rising, threshold_curves=high)
    with themed(THEMES[0]):
        for draw in (draw_training, draw_thresholds):
            figure = draw([run], ["run"], THEMES[0])
            FigureCanvasAgg(figure).draw()
            for axes in figure.axes:
                if (legend := axes.get_legend()) is None:
                    continue
                bottom = legend.get_window_extent().y0
                for line in axes.get_lines():
                    if line.get_transform() == axes.transData:  # not the mark of the best epoch
                        top = axes.transData.transform((0, max(line.get_ydata())))[1]
                        assert top <= bottom


def test_points_are_where_and_as_they_should_be(pair):
    runs = [read_run(folder) for folder in pair]
    sample = sample_training(runs, load_corpora(runs), limit=40, device=torch.device("cpu"))
    places, shown = cli.lay_out_sample(sample, 30)
    drawings = dict(cli._all(runs, names_of(runs), THEMES[0], sample, [{}, {}], places, shown))
    rarest = show_emotion(sample.labels[shown]).numpy()
    with themed(THEMES[0]):
        by_va, by_emotion = drawings["map-valence-arousal"](), drawings["map-emotion"]()
    for figure in (by_va, by_emotion):
        panels = iter(figure.axes)
        for modality in ("text", "audio", "vision"):
            for run in range(2):
                axes = next(panels)
                own = places[run][modality]
                if figure is by_va:
                    (dots,) = axes.collections
                    np.testing.assert_array_equal(dots.get_offsets(), own)
                    expected = va_colors(sample.coordinates[modality][shown].numpy(), THEMES[0])
                    np.testing.assert_allclose(dots.get_facecolor()[:, :3], expected, atol=1e-6)
                    continue
                for label, dots in enumerate(axes.collections, -1):  # at first those without any
                    np.testing.assert_array_equal(dots.get_offsets(), own[rarest == label])
                    wanted = THEMES[0].faint if label < 0 else THEMES[0].color(label)
                    assert len(dots.get_offsets()) == 0 or to_hex(dots.get_facecolor()[0]) == wanted


def test_curves_and_matrices_show_the_runs_own_figures(pair):
    run = read_run(pair[1])
    lines = [json.loads(line) for line in (pair[1] / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["event"] == "epoch"]
    drawings = dict(cli.run_figures([run], ["run"], THEMES[0]))
    with themed(THEMES[0]):
        loss, parts, metrics = drawings["training"]().axes
        both = drawings["thresholds"]().axes
    steps = [line for line in lines if line["event"] == "step"]
    drawn = [line.get_ydata().tolist() for line in (*loss.lines, *parts.lines)]
    keys = ["loss", "classification", "prior", *(f"contrastive_{m}" for m in MODALITIES)]
    assert drawn == [[line[key] for line in steps] for key in keys]
    shown = [list(line.get_ydata()) for line in metrics.lines[:3]]
    for values, key in zip(shown, ("micro_f1", "macro_f1", "accuracy"), strict=True):
        assert values == [100 * line["valid"][key] for line in epochs]
    content = json.loads((pair[1] / "threshold_curves.json").read_text())
    for axes, split in zip(both, ("valid", "test"), strict=True):
        for line, key in zip(
            axes.lines, ("micro_f1", "macro_f1", "accuracy", "hamming_loss"), strict=False
        ):
            np.testing.assert_allclose(line.get_xdata(), content[split]["threshold"])
            np.testing.assert_allclose(line.get_ydata(), 100 * np.array(content[split][key]))
    rows = [json.loads(line) for line in (pair[1] / "predictions.jsonl").read_text().splitlines()]
    (together,) = (one for one in drawings["co-occurrence"].args if isinstance(one, dict))
    for key, matrix in zip(("labels", "predictions"), together.values(), strict=True):
        flags = np.array([row[key] for row in rows])
        for i, row in enumerate(matrix):
            has = flags[flags[:, i] == 1]
            np.testing.assert_allclose(row, has.mean(axis=0) if len(has) else np.nan)
