"""Per-modality preprocessing: from texts, sounds and pictures to the input of an encoder.

The three classes have one interface, so that the regressor, its trainer and the scoring know no
modality. A *row* is an item made ready once (token ids; a clip whose header has been looked at);
files are decoded when their batch is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoFeatureExtractor, AutoImageProcessor

from univa.batch import Modality
from univa.errors import UserError, first_line
from univa.media.decode import IMAGES, Clip, audio_seconds, check_frames, read_audio, read_frames
from univa.media.encoders import LOADING_ERRORS
from univa.utils.tokenizer import load_tokenizer

__all__ = [
    "PREPROCESSORS",
    "AudioPreprocessor",
    "EncoderInputs",
    "Preprocessor",
    "TextPreprocessor",
    "VisionPreprocessor",
    "conv_frames",
]

EncoderInputs = dict[str, Tensor]


class Preprocessor(Protocol):
    """Preprocessing of one modality, and the hidden states of its encoder."""

    modality: Modality

    def rows(self, items: Sequence[Any]) -> list[Any]:
        """Check items and make them ready; no file is decoded."""
        ...

    def lengths(self, rows: Sequence[Any]) -> list[int]:
        """Length of each row, in the unit that decides how long the encoder takes."""
        ...

    def batch(self, rows: Sequence[Any]) -> EncoderInputs:
        """Decode and pad rows, on the CPU."""
        ...

    def states(self, encoder: nn.Module, batch: EncoderInputs) -> tuple[Tensor, Tensor]:
        """Hidden states [B, T, H] and a mask [B, T] that is True at real steps."""
        ...

    def settings(self) -> dict[str, Any]:
        """What is kept in a saved folder's config, beside the processor."""
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer or the feature extractor."""
        ...


class TextPreprocessor:
    """Tokenizer of a text encoder.

    Args:
        tokenizer: of `transformers`.
        positions: positions of the encoder, special tokens included; None where it has no limit.
        max_tokens: longer texts are cut to so many tokens.
    """

    modality: Modality = "text"

    def __init__(self, tokenizer: Any, *, positions: int | None, max_tokens: int = 64) -> None:
        self.tokenizer, self.positions = tokenizer, positions
        self.max_tokens = max_tokens

    @classmethod
    def load(cls, source: str | Path, config: Any, **settings: Any) -> TextPreprocessor:
        """Load the tokenizer beside an encoder's weights.

        Raises:
            UserError: there is none, or `max_tokens` is beyond the encoder's positions.
        """
        tokenizer = load_tokenizer(source)
        positions = getattr(config, "max_position_embeddings", None)
        preprocessor = cls(tokenizer, positions=positions)
        preprocessor.set_max_tokens(int(settings.get("max_tokens", 64)))
        return preprocessor

    def set_max_tokens(self, max_tokens: int) -> None:
        """Cut texts to so many tokens from now on.

        Raises:
            UserError: the encoder has fewer positions, or no room is left for a word.
        """
        # RoBERTa keeps two of its position rows for padding; its tokenizer knows.
        positions = min(self.positions or max_tokens, self.tokenizer.model_max_length)
        if not 3 <= max_tokens <= positions:
            raise UserError(
                f"max_tokens: {max_tokens} is not between 3 and the {positions} positions of the "
                "encoder; give another number"
            )
        self.max_tokens = max_tokens

    def rows(self, items: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut to `max_tokens`."""
        if not items:
            return []
        encoded = self.tokenizer(
            list(items), truncation=True, max_length=self.max_tokens, return_attention_mask=False
        )
        return encoded["input_ids"]

    def lengths(self, rows: Sequence[list[int]]) -> list[int]:
        """Number of tokens."""
        return [len(row) for row in rows]

    def batch(self, rows: Sequence[list[int]]) -> EncoderInputs:
        """`input_ids` and `attention_mask`, [B, longest row] int64 each."""
        ids = [torch.tensor(row) for row in rows]
        return {
            "input_ids": pad_sequence(ids, True, float(self.tokenizer.pad_token_id or 0)),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], True),
        }

    def states(self, encoder: nn.Module, batch: EncoderInputs) -> tuple[Tensor, Tensor]:
        """Last hidden states and which of them are of real tokens."""
        return encoder(**batch).last_hidden_state, batch["attention_mask"].bool()

    def settings(self) -> dict[str, Any]:
        """`max_tokens`."""
        return {"max_tokens": self.max_tokens}

    def save(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.tokenizer.save_pretrained(folder)


def conv_frames(config: Any, samples: int) -> int:
    """Steps that the convolutions of a wav2vec2-like encoder make of so many samples."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return max(0, samples)


class AudioPreprocessor:
    """Feature extractor of a wav2vec2-like encoder: mono samples at its rate.

    Padding must not change a score. Encoders whose first convolution normalises over time
    (`feat_extract_norm` "group") see the padding of a batch, so their rows are encoded one by one.

    Args:
        extractor: of `transformers`; has the sampling rate and whether samples are standardised.
        config: of the encoder.
        max_seconds: longer clips are cut to their beginning; None takes them whole.
    """

    modality: Modality = "audio"

    def __init__(self, extractor: Any, config: Any, *, max_seconds: float | None = None) -> None:
        self.extractor, self.config = extractor, config
        self.max_seconds = max_seconds
        self.rate = int(extractor.sampling_rate)

    @classmethod
    def load(cls, source: str | Path, config: Any, **settings: Any) -> AudioPreprocessor:
        """Load the feature extractor beside an encoder's weights.

        Raises:
            UserError: there is none.
        """
        extractor = _processor(AutoFeatureExtractor, source, "audio")
        if not hasattr(extractor, "sampling_rate"):
            raise UserError(
                f"{source}: its preprocessor_config.json has no sampling_rate; give the one of an "
                "audio encoder"
            )
        return cls(extractor, config, max_seconds=settings.get("max_seconds"))

    @property
    def shortest(self) -> int:
        """Fewest samples that make one step."""
        samples = 1
        for kernel, stride in zip(
            reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True
        ):
            samples = (samples - 1) * stride + kernel
        return samples

    def rows(self, items: Sequence[Clip]) -> list[tuple[Clip, float]]:
        """Clips and their seconds.

        Raises:
            UserError: a file is missing or no audio, or is too short for one step.
        """
        rows = []
        for clip in items:
            seconds = audio_seconds(clip)
            if round(seconds * self.rate) < self.shortest:
                raise UserError(
                    f"{clip.path}: {seconds:.4f} s of sound, and the encoder needs "
                    f"{self.shortest / self.rate:.4f} s; take the row out or mend its times"
                )
            if self.max_seconds is not None and seconds > self.max_seconds:
                seconds = self.max_seconds
                clip = Clip(path=clip.path, start=clip.start, end=clip.start + seconds)
            rows.append((clip, seconds))
        return rows

    def lengths(self, rows: Sequence[tuple[Clip, float]]) -> list[int]:
        """Number of samples, up to rounding."""
        return [round(seconds * self.rate) for _, seconds in rows]

    def samples(self, clip: Clip) -> Tensor:
        """Standardised samples of one clip, [n] float32 with n >= `shortest`."""
        sound = read_audio(clip, self.rate)
        values = self.extractor(sound, sampling_rate=self.rate, return_tensors="pt")
        row = values["input_values"][0].float()
        # Resampling may round a clip that is just long enough down.
        return nn.functional.pad(row, (0, max(0, self.shortest - len(row))))

    def batch(self, rows: Sequence[tuple[Clip, float]]) -> EncoderInputs:
        """`input_values` [B, longest row] float32 and `attention_mask` [B, longest row] int64."""
        sounds = [self.samples(clip) for clip, _ in rows]
        ones = [torch.ones(len(sound), dtype=torch.long) for sound in sounds]
        return {
            "input_values": pad_sequence(sounds, True),
            "attention_mask": pad_sequence(ones, True),
        }

    def states(self, encoder: nn.Module, batch: EncoderInputs) -> tuple[Tensor, Tensor]:
        """Last hidden states and which of them are of sound."""
        values, mask = batch["input_values"], batch["attention_mask"]
        lengths = mask.sum(1).tolist()
        steps = torch.tensor([conv_frames(self.config, n) for n in lengths], device=values.device)
        if getattr(self.config, "feat_extract_norm", "group") == "group":
            alone = [
                encoder(row[None, :n]).last_hidden_state[0]
                for row, n in zip(values, lengths, strict=True)
            ]
            hidden = pad_sequence(alone, True)
        else:
            hidden = encoder(values, attention_mask=mask).last_hidden_state
        places = torch.arange(hidden.shape[1], device=values.device)
        return hidden, places < steps[:, None]

    def settings(self) -> dict[str, Any]:
        """`max_seconds`."""
        return {"max_seconds": self.max_seconds}

    def save(self, folder: Path) -> None:
        """Write the feature extractor."""
        self.extractor.save_pretrained(folder)


class VisionPreprocessor:
    """Image processor of a vision encoder: some frames of each clip, one vector for each.

    A frame's vector is the class token after the last layer norm: CLIP's and SigLIP's pooled
    output, the first of the last hidden states of a ViT, DeiT, DINOv2 or BEiT.

    Args:
        processor: of `transformers`.
        frames: most frames of a clip, evenly spread.
    """

    modality: Modality = "vision"

    def __init__(self, processor: Any, *, frames: int = 8) -> None:
        self.processor, self.frames = processor, frames

    @classmethod
    def load(cls, source: str | Path, config: Any, **settings: Any) -> VisionPreprocessor:
        """Load the image processor beside an encoder's weights.

        Raises:
            UserError: there is none.
        """
        processor = _processor(AutoImageProcessor, source, "image")
        return cls(processor, frames=int(settings.get("frames", 8)))

    def rows(self, items: Sequence[Clip]) -> list[Clip]:
        """The clips.

        Raises:
            UserError: a file is missing.
        """
        for clip in items:
            check_frames(clip)
        return list(items)

    def lengths(self, rows: Sequence[Clip]) -> list[int]:
        """Most frames of each clip."""
        single = [not c.path.is_dir() and c.path.suffix.lower() in IMAGES for c in rows]
        return [1 if alone else self.frames for alone in single]

    def pixels(self, frames: Sequence[Any]) -> Tensor:
        """Pictures ready for the encoder, [frames, 3, height, width] float32."""
        return self.processor(list(frames), return_tensors="pt")["pixel_values"].float()

    def batch(self, rows: Sequence[Clip]) -> EncoderInputs:
        """`pixel_values` of all frames, clip after clip, and `frames` [B] int64 of each clip."""
        pictures = [read_frames(clip, count=self.frames) for clip in rows]
        return {
            "pixel_values": torch.cat([self.pixels(frames) for frames in pictures]),
            "frames": torch.tensor([len(frames) for frames in pictures]),
        }

    def vectors(self, encoder: nn.Module, pixels: Tensor) -> Tensor:
        """One vector per picture, [frames, H]."""
        output = encoder(pixel_values=pixels)
        if cast(Any, encoder).config.model_type.startswith(("clip", "siglip")):
            return output.pooler_output
        return output.last_hidden_state[:, 0]

    def states(self, encoder: nn.Module, batch: EncoderInputs) -> tuple[Tensor, Tensor]:
        """Vectors of the frames and which of them are there."""
        return self.spread(self.vectors(encoder, batch["pixel_values"]), batch)

    @staticmethod
    def spread(vectors: Tensor, batch: EncoderInputs) -> tuple[Tensor, Tensor]:
        """[all frames, H] of a batch as [B, T, H], and the mask [B, T]."""
        counts = batch["frames"]
        hidden = pad_sequence(list(vectors.split(counts.tolist())), True)
        return hidden, torch.arange(hidden.shape[1], device=counts.device) < counts[:, None]

    def settings(self) -> dict[str, Any]:
        """`frames`."""
        return {"frames": self.frames}

    def save(self, folder: Path) -> None:
        """Write the image processor."""
        self.processor.save_pretrained(folder)


def _processor(kind: Any, source: str | Path, noun: str) -> Any:
    try:
        return kind.from_pretrained(source, local_files_only=Path(source).is_dir())
    except LOADING_ERRORS as error:
        raise UserError(
            f"{source}: no usable {noun} processor ({first_line(error)}); put the encoder's "
            "preprocessor_config.json there"
        ) from None


PREPROCESSORS: dict[Modality, Any] = {
    "text": TextPreprocessor,
    "audio": AudioPreprocessor,
    "vision": VisionPreprocessor,
}
"""The class that reads each modality."""
