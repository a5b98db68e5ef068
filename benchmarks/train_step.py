"""A training step beside a straight PyTorch rendering of the authors' step.

    python -m benchmarks.train_step                          # a small model, float32, the CPU
    python -m benchmarks.train_step --hidden-size 768 --encoder-layers 12 --device cuda --bf16

Random data of CMU-MOSEI's shape: dialogues of 7 utterances, audio of at most 750 x 768 and vision
of at most 100 x 512. Lengths are log-normal, cut at the limits: tokens of an utterance have mean
26, audio frames 360 and visual frames 45 (assumptions: utterances of 7.3 s, 50 and 6 frames a
second).

The rendering does what the authors' step does: every utterance encodes its own dialogue, padded to
512 tokens; audio and vision are padded to their limits; attention is spelled out; the contrastive
loss has two equal views. Ours encodes a dialogue once, pads groups of like length, and calls
`univa_kernels`. Both get the same utterances and the same weights, and must give the same loss and
gradients before they are timed. Medians of interleaved steps: batch to device, forward, backward,
clipping, AdamW. Dropout is 0 in both. By default the numbers of layers are those of the authors'
run (12 in the text encoder, 5, 3) and the width is a quarter of theirs.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import RobertaConfig, RobertaModel

from univa.batch import (
    MODALITIES,
    Batch,
    FeatureSequence,
    Modality,
    ModalityInput,
    TokenizedDialogues,
)
from univa.config import LossConfig
from univa.data.batching.collate import length_buckets, padded_buckets
from univa.models import ModelConfig, UniVA
from univa_kernels import UniVALoss

LIMITS: dict[Modality, int] = {"text": 512, "audio": 750, "vision": 100}
SIZES: dict[Modality, int] = {"audio": 768, "vision": 512}
MEANS = {"text": 26, "audio": 360, "vision": 45}
UTTERANCES, LABELS, VOCABULARY = 7, 6, 2000
STRAIGHT, OURS = "straight PyTorch", "univa"
LOSS = LossConfig()  # the values of the preset mosei-roberta


def lengths(modality: Modality, count: int, generator: torch.Generator) -> list[int]:
    """Log-normal lengths of spread 0.6, of the modality's mean, cut at its limit."""
    spread = 0.6
    middle = MEANS[modality] / torch.tensor(spread**2 / 2).exp()
    draws = (middle * (spread * torch.randn(count, generator=generator)).exp()).round()
    return draws.clamp(1, 64 if modality == "text" else LIMITS[modality]).int().tolist()


def make_batches(dialogues: int, seed: int) -> tuple[Batch, Batch]:
    """The same utterances as the authors' code batches them, and as ours does."""
    generator = torch.Generator().manual_seed(seed)
    count = dialogues * UTTERANCES
    rows, spans = [], []
    for _ in range(dialogues):
        row = [0]
        for place, length in enumerate(lengths("text", UTTERANCES, generator)):
            row += [2, 2] * (place > 0)
            spans.append((len(row), len(row) + length))
            row += torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        rows.append(torch.tensor([*row, 2]))
    owner = torch.arange(count) // UTTERANCES

    def tokens(repeat: bool, width: int) -> TokenizedDialogues:
        ids = torch.full((dialogues, width), 1)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        steps = torch.arange(width)
        mask = (steps < torch.tensor([[len(row)] for row in rows])).long()
        bounds = torch.tensor(spans)
        return TokenizedDialogues(
            input_ids=ids[owner] if repeat else ids,
            attention_mask=mask[owner] if repeat else mask,
            dialogue_index=torch.arange(count) if repeat else owner,
            utterance_mask=(steps >= bounds[:, :1]) & (steps < bounds[:, 1:]),
        )

    sequences = {
        name: [torch.randn(n, size, generator=generator) for n in lengths(name, count, generator)]
        for name, size in SIZES.items()
    }
    full = {
        name: FeatureSequence(
            features=torch.stack([F.pad(s, (0, 0, 0, LIMITS[name] - len(s))) for s in part]),
            mask=torch.arange(LIMITS[name]) < torch.tensor([[len(s)] for s in part]),
        )
        for name, part in sequences.items()
    }
    common = {
        "utterance_ids": tuple(map(str, range(count))),
        "labels": torch.randint(2, (count, LABELS), generator=generator).float(),
        "coordinates": {name: torch.randn(count, 2, generator=generator) for name in MODALITIES},
        "groups": owner,
    }
    authors = Batch(text=tokens(True, LIMITS["text"]), **full, **common)  # type: ignore[arg-type]
    longest = max(map(len, rows))
    parts = {
        name: padded_buckets(part, length_buckets([len(s) for s in part], 4))
        for name, part in sequences.items()
    }
    ours = Batch(text=tokens(False, longest), **parts, **common)  # type: ignore[arg-type]
    return authors, ours


class PlainModel(nn.Module):
    """The authors' forward pass, spelled out over the weights of a UniVA model."""

    def __init__(self, model: UniVA) -> None:
        super().__init__()
        self.parts: Any = model

    def attention(self, layer: Any, states: Tensor, mask: Tensor) -> Tensor:
        own = layer.attention
        batch, length, width = states.shape
        weights, biases = own.query_key_value.weight.chunk(3), own.query_key_value.bias.chunk(3)
        query, key, value = (
            F.linear(states, w, b).view(batch, length, own.num_heads, -1).transpose(1, 2)
            for w, b in zip(weights, biases, strict=True)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        scores = scores + (~mask[:, None, None, :]) * -10000.0
        context = scores.softmax(-1) @ value
        return own.output(context.transpose(1, 2).reshape(batch, length, width))

    def embed(self, name: str, value: ModalityInput) -> Tensor:
        encoder, pooling = self.parts.encoders[name], self.parts.poolings[name]
        if isinstance(value, TokenizedDialogues):
            states, mask = encoder(value.input_ids, value.attention_mask), value.utterance_mask
        else:
            assert isinstance(value, FeatureSequence)  # padded to the limit, not in buckets
            mask = value.mask
            states = encoder.projection(value.features) + encoder.position_embeddings.weight
            for layer in encoder.layers:
                states = layer.attention_norm(states + self.attention(layer, states, mask))
                change = layer.contract(F.gelu(layer.expand(states)))
                states = layer.feedforward_norm(states + change)
        query = pooling.query_projection(pooling.query)
        scores = pooling.score(torch.tanh(pooling.state_projection(states) + query)).squeeze(-1)
        weights = (scores + (~mask) * -10000.0).softmax(1)
        return (weights[:, :, None] * states).sum(1)

    def forward(self, batch: Batch) -> Tensor:
        embeddings = {name: self.embed(name, value) for name, value in batch.inputs.items()}
        logits = self.parts.classifier(torch.cat([*embeddings.values()], 1))
        log_chances, target = logits.log_softmax(1), batch.labels.softmax(1)
        divergence = 1000 * F.kl_div(log_chances, target)
        gaps = (log_chances.T[:, None] - log_chances.T[None]).norm(dim=2)
        prior = (self.parts.similarity * gaps).sum() / len(logits)
        weights = LOSS.modality_weights
        contrastive = sum(
            weights[name] * two_views(value, batch.coordinates[name])
            for name, value in embeddings.items()
        )
        return (1 - LOSS.alpha) * (divergence + prior) + LOSS.alpha * contrastive / 3


def two_views(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """The contrastive loss of two equal views, the first copy as anchors, less its log 2."""
    both, points = embeddings.repeat(2, 1), coordinates.repeat(2, 1)
    logits = embeddings @ both.T / LOSS.temperature
    own = torch.eye(len(embeddings), len(both), dtype=torch.bool, device=both.device)
    positive = ((coordinates[:, None] - points[None]).norm(dim=2) < LOSS.radius) & ~own
    log_z = logits.masked_fill(own, -torch.inf).logsumexp(1)
    mean = (logits * positive).sum(1) / positive.sum(1)
    return (log_z - mean).mean() - torch.tensor(2.0).log()


class OurModel(nn.Module):
    """Model and loss as `univa train` runs them."""

    def __init__(self, model: UniVA, autocast: bool) -> None:
        super().__init__()
        self.parts, self.autocast = model, autocast
        self.loss = UniVALoss(
            temperature=LOSS.temperature,
            radius=LOSS.radius,
            alpha=LOSS.alpha,
            modality_weights=LOSS.modality_weights,
            prior="norm",
        )

    def forward(self, batch: Batch) -> Tensor:
        with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.parts(**batch.inputs)
        embeddings = {name: value.float() for name, value in output.embeddings.items()}
        return self.loss(
            output.logits.float(), batch.labels, embeddings, batch.coordinates, output.similarity
        ).total


class Step:
    """A training step that can be called; its model, for the gradients that the last one left."""

    def __init__(self, model: nn.Module, *, fused: bool, device: torch.device) -> None:
        self.model, self.device = model, device
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=5e-5, weight_decay=0.0, fused=fused or None
        )

    def __call__(self, batch: Batch) -> Tensor:
        loss: Tensor = self.model(batch.to(self.device, non_blocking=True))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss

    def gradient(self) -> Tensor:
        """Of all parameters, clipped, as one vector."""
        parts = [parameter.grad for parameter in self.model.parameters()]
        return torch.cat([part.flatten().double() for part in parts if part is not None])


def build(
    *,
    hidden_size: int = 192,
    encoder_layers: int = 12,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> dict[str, Step]:
    """A step of each contender, of the same weights: the straight rendering's, then ours."""
    torch.manual_seed(0)
    heads = max(1, hidden_size // 64)
    encoder = RobertaModel(
        RobertaConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden_size,
            num_hidden_layers=encoder_layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden_size,
            max_position_embeddings=514,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    config = ModelConfig(
        labels=tuple(map(str, range(LABELS))),
        hidden_size=hidden_size,
        num_heads=heads,
        feedforward_size=4 * hidden_size,
        dropout=0.0,
        text_encoder="random",
        audio_layers=5,
        vision_layers=3,
    )
    device = torch.device(device)
    model = UniVA(config, similarity=torch.rand(LABELS, LABELS), text_encoder=encoder)
    plain = PlainModel(copy.deepcopy(model)).to(device)
    ours = OurModel(model, bf16).to(device)
    return {
        STRAIGHT: Step(plain, fused=False, device=device),
        OURS: Step(ours, fused=True, device=device),
    }


def differs(losses: list[float], apart: float, *, bf16: bool = False) -> bool:
    """Whether steps of the same weights and batch are not the same but for rounding."""
    same = abs(losses[0] - losses[1]) <= (0.05 if bf16 else 1e-4) * abs(losses[0])
    return not (same and apart <= (0.2 if bf16 else 1e-3))


def difference(steps: dict[str, Step], batches: tuple[Batch, Batch]) -> tuple[list[float], float]:
    """A step of each: their losses, and how far their gradients are apart, relative."""
    pairs = zip(steps.values(), batches, strict=True)
    losses = [step(batch).item() for step, batch in pairs]
    first, second = (step.gradient() for step in steps.values())
    return losses, ((first - second).norm() / first.norm()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=2, help="of 7 utterances, in a batch")
    parser.add_argument("--hidden-size", type=int, default=192)
    parser.add_argument("--encoder-layers", type=int, default=12, help="of the text encoder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast in ours")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    hidden, device = options.hidden_size, torch.device(options.device)
    steps = build(
        hidden_size=hidden,
        encoder_layers=options.encoder_layers,
        device=device,
        bf16=options.bf16,
    )
    count = options.dialogues * UTTERANCES
    losses, apart = difference(steps, make_batches(options.dialogues, seed=0))
    if differs(losses, apart, bf16=options.bf16):
        raise SystemExit(f"the first steps differ: losses {losses}, gradients by {apart:.1e}")
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(1, options.rounds + 1):
        batches = make_batches(options.dialogues, seed=number)
        for (name, step), batch in zip(steps.items(), batches, strict=True):
            begun = time.perf_counter()
            step(batch).item()
            times[name].append(time.perf_counter() - begun)
    print(
        f"{count} utterances a batch, hidden size {hidden}, layers: text encoder "
        f"{options.encoder_layers}, audio 5, vision 3; {device}, {options.threads} thread(s), "
        f"torch {torch.__version__}, {platform.machine()}; median of {options.rounds}"
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<18}{seconds:8.3f} s a step {count / seconds:8.1f} utterances/s")
    slow, fast = medians.values()
    print(f"ratio {slow / fast:.2f}")


if __name__ == "__main__":
    main()
