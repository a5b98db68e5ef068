import builtins
import importlib
import sys
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.va.media_files import picture, tone, video
from univa.errors import UserError
from univa.media.decode import Clip, _spread, audio_seconds, read_audio, read_frames


def _levels(frames):
    return [round(float(np.asarray(frame).mean())) for frame in frames]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_samples_are_those_of_the_file(tmp_path, suffix):
    path = tone(tmp_path / f"a{suffix}", seconds=0.1)
    expected = 0.3 * np.sin(2 * np.pi * 200 * np.arange(1600) / 16000)
    samples = read_audio(Clip(path=path), 16000)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, expected, atol=1e-4)  # 16 bit
    part = read_audio(Clip(path=path, start=0.02, end=0.05), 16000)
    np.testing.assert_array_equal(part, samples[320:800])
    assert audio_seconds(Clip(path=path, start=0.02, end=9)) == pytest.approx(0.08)
    np.testing.assert_array_equal(
        read_audio(Clip(path=path, start=0.02, end=9), 16000), samples[320:]
    )


def test_channels_are_averaged_and_the_rate_is_changed(tmp_path):
    path = tone(tmp_path / "a.wav", seconds=1, rate=44100, channels=2)
    samples = read_audio(Clip(path=path), 16000)
    assert len(samples) == 16000
    # The left channel's tone, halved; the ends ring.
    expected = 0.15 * np.sin(2 * np.pi * 200 * np.arange(16000) / 16000)
    np.testing.assert_allclose(samples[500:-500], expected[500:-500], atol=1e-3)


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFFF])
def test_streamed_wav_does_not_know_its_length(tmp_path, length):
    path = tone(tmp_path / "a.wav", seconds=1)
    content = bytearray(path.read_bytes())
    content[40:44] = length.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(read_audio(Clip(path=path), 16000)) == 16000


def test_odd_audio_is_one_line(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    flac = tone(tmp_path / "cut.flac", seconds=2)
    flac.write_bytes(flac.read_bytes()[:200])
    wav = tone(tmp_path / "cut.wav", seconds=2)
    wav.write_bytes(wav.read_bytes()[:40000])
    for name, message in {
        "cut.wav": "the file ends before its sound does",
        "none.wav": "no such file; mend the path",
        "text.wav": "no audio file that can be read",
        "empty.wav": "no sound between 0 s and the end; the file has 0.000 s",
        "nan.wav": "NaN or infinite sample; write the file anew",
        "cut.flac": "damaged audio",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            read_audio(Clip(path=tmp_path / name), 16000)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    path = tone(tmp_path / "a.wav", seconds=1)
    with pytest.raises(UserError, match=r"no sound between 1\.5 s and 2 s; the file has 1\.000 s"):
        read_audio(Clip(path=path, start=1.5, end=2), 16000)


def test_frames_are_spread_over_a_video(tmp_path):
    clip = Clip(path=video(tmp_path / "v.mp4"))
    # 20 frames in 4 parts of 5: the middle ones are 2, 7, 12, 17.
    assert _levels(read_frames(clip, count=4)) == pytest.approx([20, 70, 120, 170], abs=4)
    assert len(read_frames(clip, count=100)) == 20
    # 10 frames a second, 5 wanted: every other one.
    assert _levels(read_frames(clip, rate=5)) == pytest.approx(list(range(0, 200, 20)), abs=4)
    part = Clip(path=clip.path, start=1.0, end=1.5)
    assert _levels(read_frames(part, count=9)) == pytest.approx([100, 110, 120, 130, 140], abs=4)


@settings(deadline=None)
@given(n=st.integers(1, 500), count=st.integers(1, 500))
def test_frames_are_spread_evenly(n, count):
    chosen = _spread(n, count)
    assert len(chosen) == min(n, count)
    gaps = {b - a for a, b in pairwise(chosen)}
    assert all(gap >= 1 for gap in gaps)
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    assert abs(chosen[0] - (n - 1 - chosen[-1])) <= 1  # as far from the start as from the end


def test_images_and_folders_of_them(tmp_path):
    for k in range(5):
        picture(tmp_path / "frames" / f"{k}.png", level=40 * k + 30)
    (tmp_path / "frames" / "notes.txt").write_text("not a frame")
    folder = Clip(path=tmp_path / "frames")
    assert _levels(read_frames(folder, count=9)) == pytest.approx([30, 70, 110, 150, 190], abs=2)
    assert _levels(read_frames(folder, count=1)) == pytest.approx([110], abs=2)
    assert len(read_frames(Clip(path=tmp_path / "frames" / "0.png"), count=3)) == 1


def test_odd_pictures_are_one_line(tmp_path):
    png = picture(tmp_path / "cut.png")
    png.write_bytes(png.read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    tone(tmp_path / "sound.wav")
    for name, message in {
        "none.png": "no such file; mend the path",
        "cut.png": "damaged or no image",
        "text.png": "damaged or no image",
        "text.mp4": "damaged or no video",
        "sound.wav": "no video stream in it; give a video",
        "empty": "no image in this folder",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            read_frames(Clip(path=tmp_path / name), count=2)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    path = video(tmp_path / "v.mp4")
    with pytest.raises(UserError, match="no frame between 5 s and the end"):
        read_frames(Clip(path=path, start=5), count=2)


@pytest.mark.parametrize(
    ("module", "package", "name"),
    [
        ("soundfile", "soundfile", "a.wav"),
        ("soxr", "soxr", "a.wav"),
        ("PIL.Image", "pillow", "a.png"),
        ("av", "av", "v.mp4"),
    ],
)
def test_without_the_extra(tmp_path, monkeypatch, module, package, name):
    tone(tmp_path / "a.wav", rate=8000)
    picture(tmp_path / "a.png")
    video(tmp_path / "v.mp4", frames=2)
    found = importlib.import_module

    def absent(wanted, *args):
        if wanted == module:
            raise ModuleNotFoundError(f"No module named {module!r}")
        return found(wanted, *args)

    monkeypatch.setattr(importlib, "import_module", absent)
    clip = Clip(path=tmp_path / name)
    with pytest.raises(UserError, match=r"pip install 'univa\[media\]'") as caught:
        read_audio(clip, 16000) if name == "a.wav" else read_frames(clip, count=1)
    assert f"the package {package}," in str(caught.value)


def test_text_needs_no_media_package(monkeypatch):
    """`univa va fit-text` and `score-text` work where the extra is not installed."""
    for name in list(sys.modules):
        if name.startswith("univa.va"):
            monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("soundfile", "soxr", "av"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    importlib.import_module("univa.va.cli_score")
