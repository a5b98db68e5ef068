"""How to lay out audio sequences of different lengths for a transformer encoder.

    python -m benchmarks.sequence_layout
    python -m benchmarks.sequence_layout --hidden-size 768 --device cuda

The same sequences (lengths as in `benchmarks.train_step`) through the same 5 layers, forward and
backward, in four layouts: all padded to the longest; groups of like length, as `univa train` makes
them; steps of all sequences in one row, attention sequence by sequence; and a nested tensor of
layout `torch.jagged`, where torch has attention for it. All must give the same gradient before they
are timed. Medians of interleaved rounds; dropout is 0.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.train_step import LIMITS, SIZES, lengths
from univa.data.batching.collate import length_buckets, padded_buckets
from univa.models.encoder import TransformerEncoder, TransformerLayer

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # three of [steps, heads, size]


def grouped(encoder: TransformerEncoder, sequences: list[Tensor], most: int) -> list[Tensor]:
    """Every sequence's states, padded within at most so many groups."""
    places = length_buckets([len(s) for s in sequences], most)
    batch = padded_buckets(sequences, places)
    found: dict[int, Tensor] = {}
    for part, value in zip(places, getattr(batch, "parts", (batch,)), strict=True):
        states = encoder(value.features, value.mask)
        found |= {
            place: row[: len(sequences[place])] for place, row in zip(part, states, strict=True)
        }
    return [found[place] for place in range(len(sequences))]


def padded_share(sequences: list[Tensor], most: int) -> float:
    """Steps that groups compute, padding too, over the steps that there are."""
    sizes = [len(s) for s in sequences]
    groups = length_buckets(sizes, most)
    return sum(len(g) * max(sizes[i] for i in g) for g in groups) / sum(sizes)


def packed_layer(layer: TransformerLayer, states: Tensor, attend: Attention) -> Tensor:
    """A layer over the steps of all sequences in one row [steps, D]."""
    own = layer.attention
    query, key, value = own.query_key_value(states).unflatten(-1, (3, own.num_heads, -1)).unbind(1)
    context = own.output(attend(query, key, value).flatten(1))
    states = layer.attention_norm(states + context)
    return layer.feedforward_norm(states + layer.contract(F.gelu(layer.expand(states))))


def packed(encoder: TransformerEncoder, sequences: list[Tensor], *, nested: bool) -> list[Tensor]:
    """Every sequence's states, without a step of padding."""
    sizes = [len(s) for s in sequences]
    positions = torch.cat([torch.arange(n, device=sequences[0].device) for n in sizes])
    ends = torch.tensor([0, *sizes], device=sequences[0].device).cumsum(0)

    def one_by_one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = (x.split(sizes) for x in (query, key, value))
        outputs = [
            F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in part))[0]
            for part in zip(*parts, strict=True)
        ]
        return torch.cat([x.transpose(0, 1) for x in outputs])

    def jagged(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        queries, keys, values = (
            torch.nested.nested_tensor_from_jagged(
                x.contiguous(), ends, min_seqlen=min(sizes), max_seqlen=max(sizes)
            ).transpose(1, 2)
            for x in (query, key, value)
        )
        return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).values()

    states = encoder.projection(torch.cat(sequences)) + encoder.position_embeddings(positions)
    for layer in encoder.layers:
        assert isinstance(layer, TransformerLayer)
        states = packed_layer(layer, states, jagged if nested else one_by_one)
    return list(states.split(sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=14)
    parser.add_argument("--hidden-size", type=int, default=192)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    encoder = TransformerEncoder(
        SIZES["audio"],
        options.hidden_size,
        num_layers=options.layers,
        max_length=LIMITS["audio"],
        num_heads=max(1, options.hidden_size // 64),
        feedforward_size=4 * options.hidden_size,
    ).to(options.device)
    layouts: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
        "padded to the longest": lambda s: grouped(encoder, s, 1),
        "4 groups of like length": lambda s: grouped(encoder, s, 4),
        "8 groups of like length": lambda s: grouped(encoder, s, 8),
        "packed, one by one": lambda s: packed(encoder, s, nested=False),
        "packed, nested attention": lambda s: packed(encoder, s, nested=True),
    }

    def step(layout: Callable[[list[Tensor]], list[Tensor]], sequences: list[Tensor]) -> float:
        encoder.zero_grad()
        begun = time.perf_counter()
        loss = sum((state.mean(0) ** 3).sum() for state in layout(sequences))
        loss.backward()  # type: ignore[union-attr]
        if options.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    gradients: dict[str, Tensor] = {}
    times: dict[str, list[float]] = {}
    shares: dict[int, list[float]] = {1: [], 4: [], 8: []}
    for number in range(options.rounds + 1):
        generator = torch.Generator().manual_seed(number)
        sequences = [
            torch.randn(n, SIZES["audio"], generator=generator).to(options.device)
            for n in lengths("audio", options.sequences, generator)
        ]
        for most, values in shares.items():
            values.append(padded_share(sequences, most))
        for name, layout in list(layouts.items()):
            try:
                seconds = step(layout, sequences)
            except (RuntimeError, NotImplementedError) as error:
                print(f"{name}: {str(error).splitlines()[0]}")
                del layouts[name]
                continue
            if number:
                times.setdefault(name, []).append(seconds)
            else:
                weight = encoder.layers[0].attention.query_key_value.weight  # type: ignore[union-attr]
                gradients[name] = weight.grad.clone()  # type: ignore[union-attr, operator]
    first = next(iter(gradients.values()))
    for name, gradient in gradients.items():
        if not torch.allclose(gradient, first, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
            raise SystemExit(f"{name}: another gradient")
    print(
        f"{options.sequences} sequences, hidden size {options.hidden_size}, {options.layers} "
        f"layers; {options.device}, {options.threads} thread(s), torch {torch.__version__}; "
        f"median of {options.rounds}"
    )
    for most, values in shares.items():
        print(f"{most} group(s): {statistics.mean(values):.2f} times the steps that there are")
    for name, values in times.items():
        print(f"{name:<28}{statistics.median(values):8.3f} s")


if __name__ == "__main__":
    main()
