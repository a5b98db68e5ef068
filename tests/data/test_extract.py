import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, CLIPVisionModel

from tests.va.media_files import FAMILIES, clip, picture, speech_encoder, tone, video, vit
from univa.cli import main
from univa.data.importers.feature_folder import INDEX
from univa.media.decode import Clip, read_audio
from univa.media.extract import chunks
from univa.media.preprocess import conv_frames


def _run(modality, manifest, encoder, output, *more):
    command = f"data extract-{modality} --manifest {manifest} --encoder {encoder} --output {output}"
    return main([*command.split(), "--no-progress", "--device", "cpu", *map(str, more)])


def _manifest(folder, column, files):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.jsonl"
    lines = [
        {"id": f"video {k}/0", "split": "train", **(entry if isinstance(entry, dict) else {})}
        | ({} if isinstance(entry, dict) else {column: str(entry)})
        for k, entry in enumerate(files)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _features(output):
    head, *lines = [json.loads(line) for line in (output / INDEX).read_text().splitlines()]
    tensors = {line["id"]: load_file(output / line["file"])["features"] for line in lines}
    assert all(len(tensors[line["id"]]) == line["steps"] for line in lines)
    assert all(tensor.shape[1] == head["size"] for tensor in tensors.values())
    assert head["count"] == len(lines)
    # Nothing but the index and what it names.
    assert {path.name for path in output.iterdir()} == {INDEX, *(line["file"] for line in lines)}
    return head, tensors


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_last_hidden_states_of_sound(tmp_path, family, norm):
    encoder = speech_encoder(tmp_path / "encoder", family, norm)
    tone(tmp_path / "c" / "a.wav", seconds=1.0, noise=0.1)
    tone(tmp_path / "c" / "b.flac", seconds=0.3, noise=0.1, rate=22050, channels=2)
    part = {"audio": "a.wav", "start": 0.25, "end": 0.75}
    manifest = _manifest(tmp_path / "c", "audio", ["a.wav", "b.flac", part])
    assert _run("audio", manifest, encoder, tmp_path / "out") == 0
    head, tensors = _features(tmp_path / "out")
    assert (head["kind"], head["modality"], head["size"]) == ("features", "audio", 16)
    model = AutoModel.from_pretrained(encoder).eval()
    clips = (
        Clip(path=tmp_path / "c" / "a.wav"),
        Clip(path=tmp_path / "c" / "b.flac"),
        Clip(path=tmp_path / "c" / "a.wav", start=0.25, end=0.75),
    )
    for k, sound in enumerate(clips):
        samples = read_audio(sound, 16000)
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        with torch.no_grad():
            expected = model(torch.from_numpy(samples)[None]).last_hidden_state[0]
        torch.testing.assert_close(tensors[f"video {k}/0"], expected, atol=1e-4, rtol=1e-3)
    # 50 a second, but for what the first step needs.
    assert [len(tensors[f"video {k}/0"]) for k in range(3)] == [49, 14, 24]


CONVOLUTIONS = SimpleNamespace(
    conv_kernel=(10, 3, 3, 3, 3, 2, 2), conv_stride=(5, 2, 2, 2, 2, 2, 2)
)


@settings(max_examples=60, deadline=None)
@given(samples=st.integers(400, 40_000), length=st.integers(1, 50_000))
def test_parts_of_a_long_sound_make_the_steps_of_the_whole(samples, length):
    sound = torch.arange(samples)
    parts = list(chunks(CONVOLUTIONS, sound, length))
    steps = [conv_frames(CONVOLUTIONS, len(part)) for part in parts]
    assert sum(steps) == conv_frames(CONVOLUTIONS, samples) == 1 + (samples - 400) // 320
    assert max(map(len, parts)) <= max(length, 320) + 80 + 319
    assert int(parts[-1][-1]) == samples - 1
    # Step t of the whole begins at sample 320 t, in the parts as well.
    starts = [
        int(part[0]) + 320 * t for part, n in zip(parts, steps, strict=True) for t in range(n)
    ]
    assert starts == [320 * t for t in range(sum(steps))]


def test_long_sounds_are_encoded_in_parts(tmp_path):
    encoder = speech_encoder(tmp_path / "encoder")
    tone(tmp_path / "c" / "a.wav", seconds=2.5)
    manifest = _manifest(tmp_path / "c", "audio", ["a.wav"])
    for seconds in (1, 30):
        assert (
            _run("audio", manifest, encoder, tmp_path / f"{seconds}", "--chunk-seconds", seconds)
            == 0
        )
    parts, whole = (_features(tmp_path / f"{k}")[1]["video 0/0"] for k in (1, 30))
    assert parts.shape == whole.shape == (124, 16)
    assert not torch.allclose(parts, whole, atol=1e-4)  # attention sees a part at a time
    assert float((parts - whole).abs().mean()) < 0.5 * float(whole.abs().mean())


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_vectors_of_frames(tmp_path, kind):
    encoder = {"vit": vit, "clip": clip}[kind](tmp_path / "encoder")
    root = tmp_path / "c"
    frames = [picture(root / "frames" / f"{k}.png", level=40 * k, seed=k) for k in range(5)]
    video(root / "v.mp4")
    manifest = _manifest(root, "vision", ["frames", "frames/2.png", "v.mp4"])
    assert _run("vision", manifest, encoder, tmp_path / "out", "--batch-size", 2) == 0
    _, tensors = _features(tmp_path / "out")
    assert [len(tensors[f"video {k}/0"]) for k in range(3)] == [5, 1, 10]  # 2 s, 5 a second
    processor = AutoImageProcessor.from_pretrained(encoder)
    model = (CLIPVisionModel if kind == "clip" else AutoModel).from_pretrained(encoder).eval()
    for k, path in enumerate(frames):
        with torch.no_grad():
            output = model(**processor(Image.open(path), return_tensors="pt"))
        vector = output.pooler_output if kind == "clip" else output.last_hidden_state[:, 0]
        torch.testing.assert_close(tensors["video 0/0"][k], vector[0], atol=1e-5, rtol=1e-4)
    assert torch.equal(tensors["video 1/0"][0], tensors["video 0/0"][2]) or torch.allclose(
        tensors["video 1/0"][0], tensors["video 0/0"][2], atol=1e-6
    )
    assert _run("vision", manifest, encoder, tmp_path / "two", "--frames", 2) == 0
    assert [len(t) for t in _features(tmp_path / "two")[1].values()] == [2, 1, 2]


def test_half_precision(tmp_path):
    encoder = speech_encoder(tmp_path / "encoder")
    tone(tmp_path / "c" / "a.wav")
    manifest = _manifest(tmp_path / "c", "audio", ["a.wav"])
    assert _run("audio", manifest, encoder, tmp_path / "out", "--dtype", "float16") == 0
    assert _run("audio", manifest, encoder, tmp_path / "full") == 0
    half, full = (_features(tmp_path / name)[1]["video 0/0"] for name in ("out", "full"))
    assert half.dtype == torch.float16
    assert torch.equal(half, full.half())


def test_stopped_run_goes_on(tmp_path, capsys):
    encoder = vit(tmp_path / "encoder")
    root = tmp_path / "c"
    paths = [picture(root / f"{k}.png", level=50 * k, seed=k) for k in range(4)]
    manifest = _manifest(root, "vision", [path.name for path in paths])
    assert _run("vision", manifest, encoder, tmp_path / "whole") == 0
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[:100])
    output = tmp_path / "out"
    assert _run("vision", manifest, encoder, output) == 2
    assert f"{paths[2]}: damaged or no image" in capsys.readouterr().err
    assert not (output / INDEX).exists()
    done = {path: path.stat().st_mtime_ns for path in output.glob("*.safetensors")}
    assert len(done) == 2
    assert _run("vision", manifest, encoder, output, "--frames", 3) == 2
    assert "begun with other options or another model" in capsys.readouterr().err
    paths[2].write_bytes(content)
    assert _run("vision", manifest, encoder, output) == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
    again, whole = _features(output), _features(tmp_path / "whole")
    assert again[0] == whole[0]
    assert all(torch.equal(again[1][name], whole[1][name]) for name in whole[1])
    assert _run("vision", manifest, encoder, output) == 2
    assert "finished features are here; give another --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("none.wav", "none.wav: no such file; mend the path"),
        ("text.wav", "text.wav: no audio file that can be read"),
        ("short.wav", "short.wav: 0.0100 s of sound, and the encoder needs 0.0250 s"),
        ({"audio": "good.wav", "start": 3}, "good.wav: no sound between 3 s and the end"),
        ({"sound": "good.wav"}, "row 1: no column 'audio'"),
    ],
)
def test_odd_input_is_one_line_and_writes_nothing(tmp_path, capsys, entry, message):
    encoder = speech_encoder(tmp_path / "encoder")
    root = tmp_path / "c"
    tone(root / "good.wav")
    tone(root / "short.wav", seconds=0.01)
    (root / "text.wav").write_text("no sound")
    manifest = _manifest(root, "audio", [entry])
    assert _run("audio", manifest, encoder, tmp_path / "out") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("univa:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_odd_encoders_and_folders(tmp_path, capsys):
    root = tmp_path / "c"
    tone(root / "a.wav")
    manifest = _manifest(root, "audio", ["a.wav"])
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("mine")
    encoder = speech_encoder(tmp_path / "encoder")
    bare = speech_encoder(tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    (tmp_path / "empty").mkdir()
    for source, output, more, message in (
        (encoder, full, (), "full: not empty, and no features of a stopped run"),
        (bare, tmp_path / "o", (), "bare: no usable audio processor"),
        (tmp_path / "empty", tmp_path / "o", (), "empty: no audio encoder could be loaded"),
        (vit(tmp_path / "vit"), tmp_path / "o", (), "vit does not encode raw samples"),
        (encoder, tmp_path / "o", ("--chunk-seconds", "0"), "chunk_seconds: 0 is less than 1"),
    ):
        assert _run("audio", manifest, source, output, *more) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert [path.name for path in full.iterdir()] == ["thesis.tex"]
