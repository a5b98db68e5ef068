import json
import shutil

import pytest
import torch
import tyro

from univa.data import read_authors_text
from univa.errors import UserError
from univa.va.cli_score import ScoreText
from univa.va.text import TextVAScorer

TEXTS = {
    "train": {"v1": ["a happy day", "so sad, so slow"], "v2": ['she said: "very loud!"']},
    "valid": {"v3": ["a cruel day", "café, 日"]},
    "test": {"v4": ["a kind day"]},
}


@pytest.fixture
def folder(tmp_path):
    """A data folder in the authors' layout, without scores."""
    root = tmp_path / "corpus"
    (root / "preprocess_data").mkdir(parents=True)
    names = "happy,sad,anger,surprise,disgust,fear"
    lines = [f"video_id,clip_id,mode,truely_sort,text,{names},sentiment"]
    structure = {}
    for split, videos in TEXTS.items():
        structure[split] = {v: [f"{v}_{k}" for k in range(len(t))] for v, t in videos.items()}
        for video, texts in videos.items():
            for k, text in enumerate(texts):
                quoted = text.replace('"', '""')
                lines.append(f'{video},{k},{split},{k},"{quoted}",1,0,0,0,0,0.3,1')
    (root / "final_multi_labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "preprocess_data" / "videos_structure.json").write_text(json.dumps(structure))
    return root


@pytest.fixture(scope="module")
def scorer(tiny_encoder, tmp_path_factory):
    torch.manual_seed(1)
    scorer = TextVAScorer.from_encoder(tiny_encoder, "text", max_tokens=16)
    scorer.scale.fill_(4.0)
    folder = tmp_path_factory.mktemp("scorer")
    scorer.save_pretrained(folder)
    return folder


def _command(folder, scorer, output, *more):
    paths = ["--data", str(folder), "--scorer", str(scorer), "--output", str(output)]
    return tyro.cli(ScoreText, args=[*paths, "--no-progress", "--device", "cpu", *more])


def test_writes_the_authors_form(folder, scorer, tmp_path):
    output = tmp_path / "made" / "scores.json"
    _command(folder, scorer, output, "--batch-size", "2").run()
    result = json.loads(output.read_text(encoding="utf-8"))
    model = TextVAScorer.from_pretrained(scorer)
    assert list(result) == ["train", "valid", "test"]
    for split, videos in TEXTS.items():
        expected = {f"{v}_{k}": t for v, texts in videos.items() for k, t in enumerate(texts)}
        assert {name: entry[0] for name, entry in result[split].items()} == expected
        for text, valence, arousal in result[split].values():
            assert [len(c.split(".")[1]) for c in (valence, arousal)] == [4, 4]
            point = model.score([text])[0].tolist()
            assert float(valence) == pytest.approx(point[0], abs=6e-5)
            assert float(arousal) == pytest.approx(point[1], abs=6e-5)
    assert [path.name for path in output.parent.iterdir()] == ["scores.json"]

    corpus = read_authors_text(folder, va_file=output)
    first = corpus.train.utterances[0]
    assert first.coordinates["text"] == tuple(map(float, result["train"]["v1_0"][1:]))


def test_longer_texts_on_request(folder, scorer, tmp_path):
    table = folder / "final_multi_labels.csv"
    text = "a happy day " + "slow " * 20
    table.write_text(table.read_text(encoding="utf-8").replace("a happy day", text), "utf-8")
    scores = []
    for more in ((), ("--max-tokens", "40")):
        _command(folder, scorer, tmp_path / "out.json", *more).run()
        scores.append(json.loads((tmp_path / "out.json").read_text())["train"]["v1_0"][1:])
    assert scores[0] != scores[1]
    with pytest.raises(UserError, match="max_tokens: 65 is not between 3 and the 64 positions"):
        _command(folder, scorer, tmp_path / "out.json", "--max-tokens", "65").run()


def _empty_text(folder):
    path = folder / "final_multi_labels.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("a cruel day", "  "), "utf-8")


def _no_column(folder):
    path = folder / "final_multi_labels.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(",text,", ",words,"), "utf-8")


def _unknown_dialogue(folder):
    path = folder / "preprocess_data" / "videos_structure.json"
    path.write_text(path.read_text().replace("v3", "v9"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_empty_text, r"corpus, split 'valid': utterance 'v3_0' has an empty text; give it a text"),
        (_no_column, r"final_multi_labels.csv, row 1: no column 'text'"),
        (_unknown_dialogue, r"final_multi_labels.csv, row 5: dialogue 'v3' is not in .*structure"),
        (shutil.rmtree, r"corpus: no such folder"),
    ],
)
def test_bad_data_leaves_the_output_as_it_was(folder, scorer, tmp_path, damage, message):
    output = tmp_path / "out" / "scores.json"
    output.parent.mkdir()
    output.write_text("before")
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        _command(folder, scorer, output).run()
    assert "\n" not in str(caught.value)
    assert output.read_text() == "before"
    assert len(list(output.parent.iterdir())) == 1


def test_missing_scorer_and_bad_scores(folder, scorer, tmp_path):
    output = tmp_path / "out" / "scores.json"
    with pytest.raises(UserError, match=r"none/config.json: no such file; give a folder that"):
        _command(folder, tmp_path / "none", output).run()
    broken = TextVAScorer.from_pretrained(scorer)
    broken.offset.fill_(torch.nan)
    broken.save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError, match="the scorer gives scores that are not finite"):
        _command(folder, tmp_path / "broken", output).run()
    with pytest.raises(UserError, match="batch_size: 0 is less than 1"):
        _command(folder, scorer, output, "--batch-size", "0")
    assert not output.exists()


def test_cuda_where_there_is_none(folder, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device: torch sees no CUDA device; give --device cpu"):
        _command(folder, scorer, tmp_path / "out.json", "--device", "cuda").run()


def test_stale_scores_are_replaced(folder, scorer):
    output = folder / "preprocess_data" / "raw_utt_text_textVA.json"
    _command(folder, scorer, output).run()
    whole = output.read_text(encoding="utf-8")
    stale = json.loads(whole)
    del stale["valid"]["v3_1"]
    for content in (json.dumps(stale), "{"):
        output.write_text(content, encoding="utf-8")
        _command(folder, scorer, output).run()
        assert output.read_text(encoding="utf-8") == whole
