"""Decoding of audio files, images and videos, by libraries of the extra `media`.

soundfile reads WAV and FLAC, soxr resamples, Pillow reads images, PyAV reads videos.
"""

from __future__ import annotations

import importlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from univa.errors import UserError, first_line

__all__ = [
    "IMAGES",
    "Clip",
    "audio_seconds",
    "check_frames",
    "need",
    "read_audio",
    "read_frames",
]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
# What libsndfile notes of a WAV file that is shorter than its header says.
_CUT_SHORT = re.compile(r"^data\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_LENGTH = 0x7FFFF000  # and above: what programs write that do not know it yet
_PACKAGES = {"soundfile": "soundfile", "soxr": "soxr", "PIL.Image": "pillow", "av": "av"}


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A file, or a stretch of it.

    Attributes:
        path: an audio file, an image, a folder of images or a video.
        start: where the stretch begins, in seconds.
        end: where it ends, in seconds; None is the end of the file.
    """

    path: Path
    start: float = 0.0
    end: float | None = None


def need(module: str) -> Any:
    """Import a package of the extra `media`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: its shared library is missing
        raise UserError(
            f"audio and video files need the package {_PACKAGES[module]}, which cannot be imported "
            f"({first_line(error)}): pip install 'univa[media]'"
        ) from None


def _file(path: Path, mend: str) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such file; {mend}")


def audio_seconds(clip: Clip) -> float:
    """Length of an audio clip, from the file's header.

    Raises:
        UserError: the file is missing, is no audio file, is cut short, or has no sound in the
            stretch.
    """
    soundfile = need("soundfile")
    _file(clip.path, "mend the path")
    try:
        info = soundfile.info(str(clip.path), verbose=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(
            f"{clip.path}: no audio file that can be read ({first_line(error)}); give WAV or FLAC"
        ) from None
    cut = _CUT_SHORT.search(info.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < _UNKNOWN_LENGTH:
        raise UserError(
            f"{clip.path}: damaged audio: the file ends before its sound does ({cut[2]} bytes of "
            f"{cut[1]}); write the file anew"
        )
    length = info.frames / info.samplerate
    end = length if clip.end is None else min(clip.end, length)
    if not end > clip.start:
        raise UserError(
            f"{clip.path}: no sound between {clip.start:g} s and "
            f"{'the end' if clip.end is None else f'{clip.end:g} s'}; the file has {length:.3f} s; "
            "mend the times or take the row out"
        )
    return end - clip.start


def read_audio(clip: Clip, rate: int) -> NDArray[np.float32]:
    """Decode an audio clip: mean over its channels, resampled.

    Args:
        clip: what to read; WAV, FLAC or whatever libsndfile knows.
        rate: samples per second wanted.

    Returns:
        [n] float32, in -1..1 where the file is integer.

    Raises:
        UserError: as `audio_seconds`; the file is damaged; a sample is NaN or infinite.
    """
    soundfile = need("soundfile")
    audio_seconds(clip)
    try:
        with soundfile.SoundFile(str(clip.path)) as file:
            given = file.samplerate
            file.seek(min(round(clip.start * given), file.frames))
            count = -1 if clip.end is None else round((clip.end - clip.start) * given)
            samples = file.read(count, dtype="float32", always_2d=True)  # [n, channels]
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(
            f"{clip.path}: damaged audio ({first_line(error)}); write the file anew"
        ) from None
    if not len(samples):
        raise UserError(f"{clip.path}: damaged audio (no sample decoded); write the file anew")
    if not np.isfinite(samples).all():
        raise UserError(f"{clip.path}: NaN or infinite sample; write the file anew")
    mono = samples.mean(axis=1)
    if given != rate:
        mono = need("soxr").resample(mono, given, rate)
    return np.ascontiguousarray(mono, dtype=np.float32)


def check_frames(clip: Clip) -> None:
    """Look whether there are frames to read, without decoding them.

    Raises:
        UserError: the file is missing, or a folder holds no image.
    """
    need("PIL.Image")
    _file(clip.path, "mend the path")
    if clip.path.is_dir():
        _images(clip.path)
    elif clip.path.suffix.lower() not in IMAGES:
        need("av")


def read_frames(clip: Clip, *, count: int | None = None, rate: float | None = None) -> list[Any]:
    """Decode frames that are evenly spread over a clip.

    A stretch of `n` frames is cut into `count` parts of like length, and the middle one of each
    part is taken; all of them where there are fewer. Stretches are of videos only.

    Args:
        clip: an image, a folder of images (in the order of their names), or a video.
        count: most frames to give.
        rate: instead of `count`: frames per second of a video; images are all given.

    Returns:
        At least one RGB `PIL.Image`.

    Raises:
        UserError: the file is missing or damaged, or holds no frame in the stretch.
    """
    check_frames(clip)
    if clip.path.is_dir():
        paths = _images(clip.path)
        kept = range(len(paths)) if count is None else _spread(len(paths), count)
        return [_image(paths[i]) for i in kept]
    if clip.path.suffix.lower() in IMAGES:
        return [_image(clip.path)]
    return _video(clip, count=count, rate=rate)


def _spread(n: int, count: int) -> list[int]:
    if n <= count:
        return list(range(n))
    return [int((k + 0.5) * n / count) for k in range(count)]


def _images(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    if not paths:
        raise UserError(
            f"{folder}: no image in this folder; put frames there ({', '.join(IMAGES)})"
        )
    return paths


def _image(path: Path) -> Any:
    image = need("PIL.Image")
    try:
        with image.open(path) as file:
            return file.convert("RGB")  # decodes
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; mend the path") from None
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: damaged or no image ({first_line(error)}); write the file anew"
        ) from None


def _video(clip: Clip, *, count: int | None, rate: float | None) -> list[Any]:
    """Two passes, so that no more than the wanted frames are in memory: times, then pictures."""
    av = need("av")
    end = math.inf if clip.end is None else clip.end
    try:
        times = [time for time, _ in _decoded(av, clip.path) if clip.start <= time < end]
        if not times:
            raise UserError(
                f"{clip.path}: no frame between {clip.start:g} s and "
                f"{'the end' if clip.end is None else f'{clip.end:g} s'}; mend the times or take "
                "the row out"
            )
        if rate is not None:
            # The first frame of each interval of 1 / rate.
            numbers = [int((time - clip.start) * rate + 1e-6) for time in times]
            chosen = [i for i, n in enumerate(numbers) if i == 0 or n != numbers[i - 1]]
        else:
            chosen = _spread(len(times), len(times) if count is None else count)
        wanted = {times[i] for i in chosen}
        last = max(wanted)
        frames = []
        for time, frame in _decoded(av, clip.path):
            if time in wanted:
                frames.append(frame.to_image().convert("RGB"))
                wanted.discard(time)
            if time >= last:
                break
        return frames
    except (av.FFmpegError, OSError, IndexError) as error:
        raise UserError(
            f"{clip.path}: damaged or no video ({first_line(error)}); write the file anew"
        ) from None


def _decoded(av: Any, path: Path) -> Any:
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise UserError(f"{path}: no video stream in it; give a video")
        stream = container.streams.video[0]
        first = None
        for number, frame in enumerate(container.decode(stream)):
            # Some containers carry no times; then the frame rate gives them.
            time = frame.time
            if time is None:
                time = number / float(stream.average_rate or 25)
            first = time if first is None else first
            yield time - first, frame
