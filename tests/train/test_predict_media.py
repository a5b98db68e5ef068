"""Predictions from media files: what extracted features give, and what the scorers say alone."""

import errno
import json
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.train.tiny import one_thread, tiny
from tests.va.media_files import picture, speech_encoder, tone, video, vit
from univa import UniVAPipeline
from univa.cli import main
from univa.errors import UserError
from univa.media.decode import Clip
from univa.media.extract import MediaEncoder
from univa.train import train
from univa.va.regressor import VARegressor

EXTRACTION = {"audio": ["--chunk-seconds", "1"], "vision": ["--frames", "3"]}
OPTIONS = ["--audio-chunk-seconds", "1", "--vision-frames", "3"]


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """Media files, the encoders' folders, a run that sees audio and vision, two scorers."""
    folder = tmp_path_factory.mktemp("own")
    encoders = {"audio": speech_encoder(folder / "speech"), "vision": vit(folder / "vit")}
    for modality, source in encoders.items():
        torch.manual_seed(7)
        scorer = VARegressor.from_encoder(source, modality)
        torch.nn.init.normal_(scorer.head.weight, std=0.1)
        scorer.save_pretrained(folder / f"va-{modality}")
    tone(folder / "a.wav", seconds=2.6, noise=0.1)
    tone(folder / "b.flac", seconds=0.3, hertz=300, rate=22050)
    picture(folder / "p.png")
    video(folder / "v.mp4")
    config = tiny(epochs=1, run_folder=str(folder / "run"))
    config = replace(
        config,
        model=replace(config.model, modalities=("audio", "vision"), audio_dim=16, vision_dim=16),
        data=replace(
            config.data, synthetic=replace(config.data.synthetic, audio_size=16, vision_size=16)
        ),
    )
    with one_thread():
        train(config)
    return folder


def utterances() -> list[dict]:
    return [
        {"id": "x", "audio": "a.wav", "vision": "p.png"},
        {"id": "y", "audio": "b.flac", "vision": "v.mp4"},
        {"id": "z", "audio": "a.wav", "vision": "v.mp4", "start": 0.5, "end": 1.75},
    ]


def arguments(own: Path, *kinds: str) -> list[str]:
    """Options for both modalities."""
    places = {
        "encoder": {"audio": own / "speech", "vision": own / "vit"},
        "scorer": {m: own / f"va-{m}" for m in ("audio", "vision")},
    }
    return [
        word
        for kind in kinds
        for modality, place in places[kind].items()
        for word in (f"--{modality}-{kind}", str(place))
    ]


def predict(own: Path, records: list[dict], capsys, *more: str) -> list[dict]:
    file = own / "dialogues.jsonl"
    file.write_text(json.dumps({"id": "d", "utterances": records}) + "\n")
    capsys.readouterr()
    args = ["predict", str(own / "run"), str(file), "--format", "jsonl", "--device", "cpu"]
    assert main([*args, *more]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_as_with_extracted_features(own, tmp_path, capsys):
    records = utterances()
    manifest = own / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"split": "test", **one}) + "\n" for one in records))
    for modality, source in (("audio", own / "speech"), ("vision", own / "vit")):
        output = tmp_path / modality
        extract = ["data", f"extract-{modality}", "--manifest", str(manifest), "--device", "cpu"]
        extract += ["--encoder", str(source), "--output", str(output), *EXTRACTION[modality]]
        assert main(extract) == 0
        entries = [json.loads(line) for line in (output / "index.jsonl").read_text().splitlines()]
        for one, entry in zip(records, entries[1:], strict=True):
            assert one["id"] == entry["id"]
            one.setdefault("features", {})[modality] = str(output / entry["file"])
    expected = predict(own, records, capsys)
    encoders = arguments(own, "encoder")
    assert predict(own, utterances(), capsys, *encoders, *OPTIONS) == expected
    # The settings of the extraction count.
    others = predict(own, utterances(), capsys, *encoders)
    assert [one["id"] for one in others] == ["x", "y", "z"]
    for one, two in zip(others, expected, strict=True):
        assert one["probabilities"] != two["probabilities"]
    # Features that are given are taken, and their media files are not looked at.
    for one in records:
        one |= {"audio": "none.wav", "vision": "none.png"}
    assert predict(own, records, capsys, *encoders, *OPTIONS) == expected


def test_valence_and_arousal_of_media(own, capsys):
    options = [*arguments(own, "encoder", "scorer"), *OPTIONS]
    predicted = predict(own, utterances(), capsys, *options)
    clips = {
        "audio": [Clip(path=own / "a.wav"), Clip(path=own / "b.flac")],
        "vision": [Clip(path=own / "p.png"), Clip(path=own / "v.mp4")],
    }
    clips["audio"].append(Clip(path=own / "a.wav", start=0.5, end=1.75))
    clips["vision"].append(Clip(path=own / "v.mp4", start=0.5, end=1.75))
    for modality, items in clips.items():
        points = VARegressor.from_pretrained(own / f"va-{modality}", modality).score(items)
        given = torch.tensor([one["va"][modality] for one in predicted])
        torch.testing.assert_close(given, points)
        assert len({tuple(point) for point in given.tolist()}) == 3
    assert main(["predict", str(own / "run"), str(own / "dialogues.jsonl"), *options]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    for one in predicted:
        k = next(k for k, line in enumerate(shown) if line.startswith(f"{one['id']} "))
        for line, modality in zip(shown[k:], ("audio", "vision"), strict=False):
            valence, arousal = one["va"][modality]
            assert f"{modality[0]} {valence:+.2f} {arousal:+.2f}" in line


def test_from_python_without_some_files(own):
    encoders = {"audio": str(own / "speech"), "vision": MediaEncoder(own / "vit", "vision")}
    scorers = {"audio": own / "va-audio"}
    pipeline = UniVAPipeline(own / "run", scorers=scorers, encoders=encoders, device="cpu")
    features = {"audio": torch.randn(4, 16)}
    one, two = pipeline(
        {
            "utterances": [
                {"features": features, "vision": own / "p.png"},
                {"audio": str(own / "a.wav"), "vision": own / "p.png"},
            ]
        }
    )
    assert one.va == {"audio": None}
    assert two.va["audio"] is not None


BROKEN = {"id": "u", "audio": "a.wav", "vision": "broken.png"}


@pytest.mark.parametrize(
    ("change", "kinds", "more", "said"),
    [
        ({}, [], [], "line 2, utterance 'u': audio is a media file, and the model reads features"),
        ({"audio": "no.wav"}, ["encoder"], [], "'u', audio: FOLDER/no.wav: no such file"),
        ({"audio": "p.png"}, ["encoder"], [], "'u', audio: FOLDER/p.png: no audio file that"),
        (BROKEN, ["encoder"], [], "'u', vision: FOLDER/broken.png: damaged or no image"),
        ({"vision": None}, ["encoder"], [], "no vision features, which the model needs"),
        ({"audio": 3}, ["encoder"], [], "utterance 1: audio is not the path of a media file"),
        ({"start": -1}, ["encoder"], [], "utterance 1: start is no time in seconds"),
        ({"end": "1"}, ["encoder"], [], "utterance 1: end is no time in seconds"),
        ({"start": 2, "end": 1}, ["encoder"], [], "from 2 s to 1 s is no stretch of time"),
        ({"start": 9}, ["encoder"], [], "'u', audio: FOLDER/a.wav: no sound between 9 s and"),
        ({}, [], ["--vision-rate", "2"], "--vision-rate is for media files; give --vision-enc"),
        ({}, ["encoder"], ["--vision-frames", "0"], "frames: 0 is less than 1"),
        ({}, ["encoder"], ["--audio-encoder", "FOLDER/vit"], "vit does not encode raw samples"),
        ({}, ["encoder"], ["--vision-encoder", "FOLDER/wide"], "gives 24 numbers per step, and"),
        ({}, [], ["--audio-scorer", "FOLDER/va-vision"], "not the config of an audio VA scorer"),
    ],
)
def test_mistakes(change, kinds, more, said, own, capsys):
    if "FOLDER/wide" in more:
        vit(own / "wide", hidden_size=24)
    (own / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    right = {"utterances": utterances()}
    wrong = {"utterances": [{"id": "u", "audio": "a.wav", "vision": "p.png", **change}]}
    file = own / "bad.jsonl"
    file.write_text(f"{json.dumps(right)}\n{json.dumps(wrong)}\n")
    if not kinds and not more:  # the line before needs no encoder
        features = {m: str(own / f"{m}.safetensors") for m in ("audio", "vision")}
        for path in features.values():
            save_file({"features": torch.zeros(2, 16)}, path)
        file.write_text(f"{json.dumps({'utterances': [{'features': features}]})}\n")
        file.write_text(file.read_text() + json.dumps(wrong))
    more = [word.replace("FOLDER", str(own)) for word in more]
    output = own / "out.jsonl"
    args = ["predict", str(own / "run"), str(file), "--output", str(output), "--device", "cpu"]
    assert main([*args, *arguments(own, *kinds), *more]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert said.replace("FOLDER", str(own)) in error
    assert not output.exists()


def test_an_encoder_that_the_model_does_not_need(finished, own):
    with pytest.raises(UserError, match=r"the model takes no text files .* give no text encoder"):
        UniVAPipeline(finished, encoders={"text": own / "speech"})


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes are Linux's")
def test_a_full_disk_is_one_line(own, capsys):
    file, output = own / "many.jsonl", own / "full.jsonl"
    file.write_text(f"{json.dumps({'utterances': utterances()})}\n" * 3)
    args = ["predict", str(own / "run"), str(file), "--output", str(output), "--device", "cpu"]
    args += arguments(own, "encoder")
    before = sorted(own.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
    try:
        status = main(args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    out, error = capsys.readouterr()
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert f"{output}: cannot write: {os.strerror(errno.EFBIG)}" in error
    assert sorted(own.iterdir()) == before
