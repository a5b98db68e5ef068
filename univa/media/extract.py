"""Features of a corpus from pre-trained encoders.

    univa data extract-audio --manifest manifest.csv --encoder WAVLM_FOLDER --output audio-features
    univa data extract-vision --manifest manifest.csv --encoder CLIP_FOLDER --output vision-features

    FOLDER/index.jsonl            first what it holds, then one line per utterance; written last
    FOLDER/KEY.safetensors        "features" [T, F] of one utterance

`univa data import-table` and its kin put them into a store. A run that was stopped goes on where it
was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor, nn

from univa.batch import Modality
from univa.data.importers.feature_folder import INDEX
from univa.errors import UserError
from univa.media.decode import Clip, read_frames
from univa.media.encoders import load_encoder
from univa.media.manifest import Columns, Item, read_items
from univa.media.preprocess import (
    PREPROCESSORS,
    AudioPreprocessor,
    VisionPreprocessor,
    conv_frames,
)
from univa.media.resume import ItemLog, file_marks, item_key
from univa.utils.console import progress
from univa.utils.files import atomic_path, atomic_write_text, make_folder
from univa.utils.processes import choose_device

__all__ = ["ExtractAudio", "ExtractVision", "MediaEncoder"]

_PROGRESS = "progress.jsonl"


@dataclass(kw_only=True)
class _Audio:
    """How sound becomes features."""

    chunk_seconds: float = 30.0
    """Longer clips are encoded in parts of so many seconds, and the parts put end to end."""

    def __post_init__(self) -> None:
        if not self.chunk_seconds >= 1:
            raise UserError(f"chunk_seconds: {self.chunk_seconds:g} is less than 1")

    def options(self) -> dict[str, Any]:
        """`chunk_seconds`."""
        return {"chunk_seconds": self.chunk_seconds}

    def features(self, encoder: nn.Module, preprocessor: AudioPreprocessor, clip: Clip) -> Tensor:
        """Last hidden states, [T, H]. The samples are standardised over the whole clip."""
        samples = preprocessor.samples(clip)
        device = next(encoder.parameters()).device
        states = [
            encoder(part[None].to(device)).last_hidden_state[0]
            for part in chunks(
                preprocessor.config, samples, round(self.chunk_seconds * preprocessor.rate)
            )
        ]
        return torch.cat(states)


@dataclass(kw_only=True)
class _Vision:
    """How pictures become features."""

    rate: float = 5.0
    """Frames per second of a video. Images, and all images of a folder, are taken as they are."""
    frames: int | None = None
    """Instead: at most so many frames of a clip, evenly spread."""
    batch_size: int = 32
    """Frames per batch."""

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise UserError(f"rate: {self.rate:g} is not above 0")
        for name in ("frames", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}: {value} is less than 1")

    def options(self) -> dict[str, Any]:
        """`rate`, or `frames`."""
        return {"rate": self.rate} if self.frames is None else {"frames": self.frames}

    def features(self, encoder: nn.Module, preprocessor: VisionPreprocessor, clip: Clip) -> Tensor:
        """Vectors of the frames, [T, H]."""
        rate = self.rate if self.frames is None else None
        pictures = read_frames(clip, count=self.frames, rate=rate)
        device = next(encoder.parameters()).device
        parts = [
            preprocessor.vectors(
                encoder, preprocessor.pixels(pictures[i : i + self.batch_size]).to(device)
            )
            for i in range(0, len(pictures), self.batch_size)
        ]
        return torch.cat(parts)


class MediaEncoder:
    """A pre-trained encoder that makes features of media files, as `univa data extract-*` does.

    Args:
        source: folder of a `transformers` encoder with its preprocessor_config.json, or a hub name.
        modality: "audio" or "vision".
        settings: `chunk_seconds` of audio; `rate` or `frames`, and `batch_size`, of vision.

    Attributes:
        size: numbers per step.

    Raises:
        UserError: it cannot be loaded, or encodes something else; a setting is out of range.
    """

    def __init__(self, source: str | Path, modality: Modality, **settings: Any) -> None:
        self._how: Any = (_Audio if modality == "audio" else _Vision)(**settings)
        self.source, self.modality = source, modality
        self._encoder = load_encoder(source, modality).eval()
        config = cast(Any, self._encoder).config
        self._preprocessor: Any = PREPROCESSORS[modality].load(source, config)
        self.size = int(config.hidden_size)

    def to(self, device: torch.device) -> MediaEncoder:
        """Move to a device."""
        self._encoder.to(device)
        return self

    def check(self, clips: Sequence[Clip]) -> None:
        """Look at files without decoding them.

        Raises:
            UserError: one is missing, of another kind, or too short.
        """
        self._preprocessor.rows(clips)

    @torch.no_grad()
    def __call__(self, clip: Clip, dtype: torch.dtype = torch.float32) -> Tensor:
        """Features [T, size] of one clip, on the CPU.

        Raises:
            UserError: the file cannot be decoded, or its features are not finite.
        """
        features = self._how.features(self._encoder, self._preprocessor, clip)
        features = features.to(dtype).contiguous().cpu()
        if not bool(features.isfinite().all()):
            raise UserError(
                f"{clip.path}: the encoder gives features that are not finite"
                f"{' in float16; give --dtype float32' * (dtype == torch.float16)}"
            )
        return features


@dataclass(kw_only=True)
class _Extract:
    """What extracting has in common."""

    modality: ClassVar[Modality]

    manifest: Path
    """CSV or JSON lines with id, split and the file of each utterance."""
    encoder: str
    """Folder of a `transformers` encoder with its preprocessor_config.json, or a hub name."""
    output: Path
    """Folder for the features. A run that was stopped goes on there."""
    columns: Annotated[Columns, tyro.conf.arg(name="")] = field(default_factory=Columns)
    """Columns of the manifest."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the features; float16 halves them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""
    progress: bool = True
    """Draw a progress bar."""

    def settings(self) -> dict[str, Any]:
        """Options of the encoder's own."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Options that decide the features."""
        raise NotImplementedError

    def run(self) -> dict[str, Any]:
        """Extract, and write the index.

        Raises:
            UserError: bad input, or `output` holds something else.
        """
        if (self.output / INDEX).exists():
            raise UserError(f"{self.output}: finished features are here; give another --output")
        if (
            self.output.is_dir()
            and any(self.output.iterdir())
            and not (self.output / _PROGRESS).exists()
        ):
            raise UserError(
                f"{self.output}: not empty, and no features of a stopped run; give another --output"
            )
        items = read_items(self.manifest, self.modality, self.columns)
        encoder = MediaEncoder(self.encoder, self.modality, **self.settings())
        encoder.check([cast(Clip, item.content) for item in items])  # all, before the work
        encoder.to(choose_device(self.device))
        make_folder(self.output)
        about = {
            "kind": "features",
            "version": 1,
            "modality": self.modality,
            "encoder": Path(self.encoder).name,
            "dtype": self.dtype,
            **self.options(),
        }
        head = {**about, "files": file_marks(Path(self.encoder))}
        mend = f"give the options of that run, or delete {self.output} to start anew"
        with ItemLog(self.output / _PROGRESS, head, mend=mend) as log:
            entries = list(self._entries(items, encoder, log))
        size = entries[0]["size"]
        lines = [{**about, "size": size, "count": len(entries)}, *entries]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        atomic_write_text(self.output / INDEX, text)
        log.remove()
        steps = sum(entry["steps"] for entry in entries)
        print(f"{len(entries)} utterances, {steps} steps of {size} numbers in {self.output}")
        return {"folder": self.output, "utterances": len(entries), "steps": steps, "size": size}

    def _entries(
        self, items: list[Item], encoder: MediaEncoder, log: ItemLog
    ) -> Iterator[dict[str, Any]]:
        for item in progress(items, "extracting", unit="file", enabled=self.progress):
            key = item_key(item)
            path = self.output / f"{key}.safetensors"
            if key not in log.done or not path.exists():
                assert isinstance(item.content, Clip)
                features = encoder(item.content, getattr(torch, self.dtype))
                with atomic_path(path) as temporary:
                    save_file({"features": features}, temporary)
                log.keep([key], [list(features.shape)])
            steps, size = log.done[key]
            yield {"id": item.id, "file": path.name, "steps": steps, "size": size}


def chunks(config: Any, samples: Tensor, length: int) -> Iterator[Tensor]:
    """Cut samples so that the steps of the parts, end to end, are those of the whole.

    A part begins a whole number of strides after the one before, and ends where the receptive
    field of its last step does.

    Args:
        config: of a wav2vec2-like encoder.
        samples: [n].
        length: most samples from the beginning of a part to that of the next.

    Yields:
        Parts of at least one step each.
    """
    stride = 1
    for factor in config.conv_stride:
        stride *= factor
    shortest = next(n for n in range(1, 1 << 30) if conv_frames(config, n) == 1)
    steps, hop = conv_frames(config, len(samples)), max(1, length // stride)
    for first in range(0, steps, hop):
        last = first + hop - 1
        # What is left behind the last step counts for encoders that normalise over time.
        end = len(samples) if last >= steps - 1 else last * stride + shortest
        yield samples[first * stride : end]


@dataclass(kw_only=True)
class ExtractAudio(_Audio, _Extract):
    """Write the last hidden states of a wav2vec2, HuBERT or WavLM, 50 a second, of audio files."""

    modality: ClassVar[Modality] = "audio"

    def settings(self) -> dict[str, Any]:
        """`chunk_seconds`."""
        return {"chunk_seconds": self.chunk_seconds}


@dataclass(kw_only=True)
class ExtractVision(_Vision, _Extract):
    """Write one vector per sampled frame of a ViT or a CLIP, of images, frame folders or videos."""

    modality: ClassVar[Modality] = "vision"

    def settings(self) -> dict[str, Any]:
        """`rate`, `frames` and `batch_size`."""
        return {"rate": self.rate, "frames": self.frames, "batch_size": self.batch_size}
