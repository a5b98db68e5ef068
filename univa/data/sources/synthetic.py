"""The embedded synthetic corpus: dialogues that wander through valence-arousal space.

A dialogue is a smooth random walk of its mood. An emotion is present where the mood is near the
emotion's prototype, so an utterance can have several emotions or none. Each modality shows its own
view of the mood: noisy, and now and then discordant (the voice does not say what the words say), so
that no modality is enough and together they know more. What a model sees are words, audio frames
and video frames that depend on that view through fixed random maps.

Everything follows from the seed, through `numpy.random.default_rng` alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univa.batch import MODALITIES, Modality
from univa.data.corpus import Corpus, Dialogue, Split, Utterance
from univa.data.lexicon import label_coordinates
from univa.data.sources._words import FILLER_WORDS, WORD_COORDINATES
from univa.errors import UserError

__all__ = ["FILLER_WORDS", "WORD_COORDINATES", "synthetic_corpus"]

_LABELS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
_LABEL_RADIUS = 0.8  # how near a prototype the mood shows its emotion
_STEPS: dict[Modality, tuple[int, int]] = {"text": (4, 12), "audio": (6, 20), "vision": (4, 12)}

_Array = NDArray[np.float64]


def synthetic_corpus(
    *,
    seed: int = 1111,
    train_dialogues: int = 240,
    valid_dialogues: int = 40,
    test_dialogues: int = 60,
    mean_utterances: int = 8,
    text_size: int = 32,
    audio_size: int = 24,
    vision_size: int = 20,
    discordance: float = 0.2,
    noise: float = 0.15,
) -> Corpus:
    """Make a trimodal corpus in memory.

    Args:
        seed: Decides everything. The maps from valence and arousal to features come from the seed
            alone, so corpora that differ only in their numbers of dialogues share them.
        train_dialogues: Dialogues of the train split, at least 1.
        valid_dialogues: Dialogues of the valid split, at least 1.
        test_dialogues: Dialogues of the test split, at least 1.
        mean_utterances: Utterances of a dialogue on average, at least 1; they vary by half of it.
        text_size: Size of a word vector.
        audio_size: Size of an audio frame's features.
        vision_size: Size of a video frame's features.
        discordance: Chance, in [0, 1], that one modality of one utterance shows another mood.
        noise: Standard deviation of a modality's view around the mood, at least 0.

    Returns:
        Labels are the six emotions of CMU-MOSEI. Every utterance has a sentence, coordinates in
        [-1, 1] for all three modalities, and features: word vectors of 4 to 12 words, 6 to 20 audio
        frames, 4 to 12 video frames.

    Raises:
        UserError: an argument is out of its range.
    """
    sizes: dict[Modality, int] = {"text": text_size, "audio": audio_size, "vision": vision_size}
    dialogues = {"train": train_dialogues, "valid": valid_dialogues, "test": test_dialogues}
    at_least_one = {
        "mean_utterances": mean_utterances,
        **{f"{name}_dialogues": count for name, count in dialogues.items()},
        **{f"{name}_size": size for name, size in sizes.items()},
    }
    for name, value in at_least_one.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    if not 0 <= discordance <= 1:
        raise UserError(f"discordance must be in 0..1, got {discordance}")
    if not 0 <= noise < float("inf"):
        raise UserError(f"noise must be finite and at least 0, got {noise}")

    world = _World(seed, sizes, discordance, noise)
    splits = {}
    for place, (name, count) in enumerate(dialogues.items()):
        rng = np.random.default_rng([seed, 1 + place])
        splits[name] = Split(
            name=name,
            dialogues=tuple(
                world.dialogue(rng, f"{name}-{number}", mean_utterances) for number in range(count)
            ),
        )
    return Corpus(
        label_names=_LABELS,
        train=splits["train"],
        valid=splits["valid"],
        test=splits["test"],
        source=f"synthetic corpus (seed {seed})",
    )


class _World:
    """What is fixed for the whole corpus: prototypes, word vectors and the maps to features."""

    def __init__(
        self, seed: int, sizes: dict[Modality, int], discordance: float, noise: float
    ) -> None:
        rng = np.random.default_rng([seed, 0])
        self.discordance = discordance
        self.noise = noise
        self.prototypes: _Array = label_coordinates(_LABELS).numpy()  # [L, 2]
        self.words = list(WORD_COORDINATES)
        self.word_points: _Array = np.array(list(WORD_COORDINATES.values()))  # [W, 2]
        self.maps = {name: _RandomMap(rng, size) for name, size in sizes.items()}
        # A word vector is half the word's own and half a hint of its coordinates, as trained word
        # vectors are. Filler words have no coordinates to hint at.
        own = rng.standard_normal((len(self.words) + len(FILLER_WORDS), sizes["text"]))
        hint = self.maps["text"](self.word_points)  # [W, F]
        vectors = np.concatenate(
            [own[: len(hint)] + hint, own[len(hint) :] * np.sqrt(2)]
        ) / np.sqrt(2)
        every_word = [*self.words, *FILLER_WORDS]
        self.vectors: dict[str, _Array] = dict(zip(every_word, vectors, strict=True))

    def dialogue(self, rng: np.random.Generator, name: str, mean_utterances: int) -> Dialogue:
        """Walk through the space, one utterance per step."""
        spread = mean_utterances // 2
        count = int(rng.integers(mean_utterances - spread, mean_utterances + spread + 1))
        # Speakers and rooms sound and look different, whatever the mood.
        offsets = {m: 0.4 * rng.standard_normal(self.maps[m].size) for m in ("audio", "vision")}
        keep = 0.7  # of the step before; the walk's own distribution stays a standard normal
        walk: _Array = rng.standard_normal(2)
        utterances = []
        for number in range(count):
            if number:
                walk = keep * walk + np.sqrt(1 - keep**2) * rng.standard_normal(2)
            mood = np.tanh(1.2 * walk)  # reaches well into the corners of [-1, 1]^2
            utterances.append(self._utterance(rng, f"{name}_{number}", name, mood, offsets))
        return Dialogue(id=name, utterances=tuple(utterances))

    def _utterance(
        self,
        rng: np.random.Generator,
        name: str,
        dialogue: str,
        mood: _Array,
        offsets: dict[str, _Array],
    ) -> Utterance:
        distances = np.linalg.norm(self.prototypes - mood, axis=1)  # [L]
        # Annotators do not draw the line at one place.
        threshold = _LABEL_RADIUS + 0.08 * rng.standard_normal(len(distances))
        views = {modality: self._view(rng, mood) for modality in MODALITIES}
        steps = {m: int(rng.integers(low, high + 1)) for m, (low, high) in _STEPS.items()}
        sentence = self._sentence(rng, views["text"], steps["text"])
        features: dict[Modality, _Array] = {
            "text": np.stack([self.vectors[word] for word in sentence])
        }
        for modality in MODALITIES[1:]:
            centre = self.maps[modality](views[modality]) + offsets[modality]  # [F]
            frames = rng.standard_normal((steps[modality], len(centre)))
            features[modality] = centre + 1.5 * frames
        return Utterance(
            id=name,
            dialogue_id=dialogue,
            text=" ".join(sentence),
            labels=_float32(distances < threshold),
            coordinates={m: (float(point[0]), float(point[1])) for m, point in views.items()},
            features={m: _float32(steps) for m, steps in features.items()},
        )

    def _view(self, rng: np.random.Generator, mood: _Array) -> _Array:
        """What one modality shows of the mood: [2] in [-1, 1]."""
        noise = self.noise * rng.standard_normal(2)
        elsewhere = rng.uniform(-1, 1, 2)
        if rng.random() < self.discordance:
            # Half of the time as in sarcasm, where only the valence turns over.
            mood = mood * (-1, 1) if rng.random() < 0.5 else elsewhere
        return np.clip(mood + noise, -1, 1)

    def _sentence(self, rng: np.random.Generator, view: _Array, length: int) -> list[str]:
        """Some words near the view, strewn among filler words."""
        telling = int(rng.integers(1, 4))
        distances = np.linalg.norm(self.word_points - view, axis=1)  # [W]
        weights = np.exp(-0.5 * (distances / 0.2) ** 2) + 1e-12
        chosen = rng.choice(len(self.words), size=telling, replace=False, p=weights / weights.sum())
        sentence = list(rng.choice(FILLER_WORDS, size=length - telling))
        for place in chosen:
            sentence.insert(int(rng.integers(0, len(sentence) + 1)), self.words[place])
        return [str(word) for word in sentence]


class _RandomMap:
    """A fixed smooth random function from the plane to feature space, of about unit variance."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.size = size
        self.inner = rng.normal(0, 2, (2, 16))
        self.shift = rng.uniform(-1, 1, 16)
        self.outer = rng.normal(0, 1.5 / 4, (16, size))

    def __call__(self, points: _Array) -> _Array:
        """[..., 2] -> [..., size]."""
        mapped: _Array = np.tanh(points @ self.inner + self.shift) @ self.outer
        return mapped


def _float32(values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
