"""Training throughput: one step beside the straight rendering, and steps of an epoch.

The step is that of benchmarks/train_step.py. The epoch is `univa train`'s own path from stored
features to updated weights (lazy reading, collating, padding by buckets, model, loss, clipping,
AdamW) over a corpus of CMU-MOSEI's shape: 16 326 training utterances in dialogues of about 7. Its
steps are measured one by one, in the order of the epoch, until the budget is over: figures are of
the steps that ran, and nothing is extrapolated to those that did not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import univa_kernels
from benchmarks import train_step
from benchmarks.results import STEP
from benchmarks.timing import Entry, Workload, WrongResult
from univa.batch import MODALITIES, Batch, Modality
from univa.data import MOSEI_LABELS, Collator, Split
from univa.data.batching.loader import load_batches
from univa.data.build import make_sampler
from univa.data.corpus import Dialogue, FeatureSlice, LazyFeatures, Utterance
from univa.models import UniVA
from univa.presets import mosei_glove
from univa.train.objective import Objective
from univa.train.optim import make_optimizer, seed_everything

UTTERANCES = 16326  # of CMU-MOSEI's training split
EPOCH_SIZES: dict[Modality, int] = {"text": 300, "audio": 768, "vision": 512}
PER_UTTERANCE = "per utterance"


def _seconds(call: Callable[[], object], device: str) -> float:
    """Wall time, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def step_workload(
    device: str, *, budget: float, hidden_size: int = 192, dialogues: int = 2, layers: int = 12
) -> Workload:
    """A training step of both, on the same utterances and weights."""

    def entries() -> list[Entry]:
        steps = train_step.build(hidden_size=hidden_size, encoder_layers=layers, device=device)
        count = dialogues * train_step.UTTERANCES

        @cache
        def first() -> tuple[list[float], float]:
            return train_step.difference(steps, train_step.make_batches(dialogues, seed=0))

        def check() -> None:
            # The rendering and ours know nothing of each other; dropout is 0, weights are equal.
            losses, apart = first()
            if train_step.differs(losses, apart):
                raise WrongResult(
                    f"the first steps differ: losses {losses}, gradients by {apart:.1e}"
                )

        def entry(place: int, name: str) -> Entry:
            def measure(number: int) -> dict[str, float]:
                batch = train_step.make_batches(dialogues, seed=number)[place]
                seconds = _seconds(lambda: steps[name](batch).item(), device)
                return {STEP: seconds, PER_UTTERANCE: seconds / count}

            return Entry(name=name, measure=measure, check=check, warm=lambda: None)

        return [entry(place, name) for place, name in enumerate(steps)]

    return Workload(
        name=f"training step width={hidden_size}",
        kind="training",
        facts={
            "hidden": hidden_size,
            "utterances": dialogues * train_step.UTTERANCES,
            "text_encoder_layers": layers,
            "dtype": "float32",
        },
        names=(train_step.STRAIGHT, train_step.OURS),
        entries=entries,
        budget=budget,
        rounds=20,
    )


class _Noise:
    """Random features of which every utterance is a stretch: the corpus takes no memory."""

    def __init__(self, size: int, longest: int, generator: torch.Generator) -> None:
        self.values = torch.randn(longest + 4096, size, generator=generator)

    def read(self, start: int, steps: int) -> Tensor:
        return self.values[start : start + steps]


def mosei_shaped(utterances: int = UTTERANCES, seed: int = 0) -> Split:
    """A training split of CMU-MOSEI's shape; lengths as in benchmarks/train_step.py."""
    generator = torch.Generator().manual_seed(seed)
    lengths = {name: train_step.lengths(name, utterances, generator) for name in MODALITIES}
    sources = {
        name: _Noise(size, train_step.LIMITS[name], generator) for name, size in EPOCH_SIZES.items()
    }
    starts = torch.randint(4096, (utterances, 3), generator=generator).tolist()
    labels = (torch.rand(utterances, len(MOSEI_LABELS), generator=generator) > 0.7).float()
    points = torch.rand(utterances, 3, 2, generator=generator).tolist()
    dialogues: list[Dialogue] = []
    begin = 0
    while begin < utterances:
        size = 1 + int(torch.randint(2 * train_step.UTTERANCES - 1, (), generator=generator))
        places = range(begin, min(begin + size, utterances))
        name = str(len(dialogues))
        members = tuple(
            Utterance(
                id=str(place),
                dialogue_id=name,
                text="",
                labels=labels[place],
                coordinates=dict(zip(MODALITIES, map(tuple, points[place]), strict=True)),
                features=LazyFeatures(
                    {
                        modality: FeatureSlice(
                            source=sources[modality],
                            start=starts[place][number],
                            steps=lengths[modality][place],
                            size=EPOCH_SIZES[modality],
                        )
                        for number, modality in enumerate(MODALITIES)
                    }
                ),
            )
            for place in places
        )
        dialogues.append(Dialogue(id=name, utterances=members))
        begin = places.stop
    return Split(name="train", dialogues=tuple(dialogues))


class _Epoch:
    """The training loop of `univa train`, one step at a time."""

    def __init__(self, hidden_size: int, device: str, utterances: int) -> None:
        preset = mosei_glove()
        model_config = dataclasses.replace(
            preset.model,
            hidden_size=hidden_size,
            num_heads=max(1, hidden_size // 64),
            feedforward_size=4 * hidden_size,
            text_dim=EPOCH_SIZES["text"],
            audio_dim=EPOCH_SIZES["audio"],
            vision_dim=EPOCH_SIZES["vision"],
        )
        data = dataclasses.replace(preset.data, authors=False)
        config = dataclasses.replace(preset, model=model_config, data=data)
        seed_everything(config.seed)
        split = mosei_shaped(utterances)
        self.collator = Collator(split, text="vectors", max_lengths=train_step.LIMITS, buckets=4)
        self.batches = make_sampler(config, self.collator).batches(0)
        self.model = UniVA(config.model).to(device).train()
        self.objective = Objective(config, self.model)
        self.optimizer, _ = make_optimizer(config, self.model, len(self.batches))
        self.clip, self.device = config.optimizer.clip_norm or math.inf, device
        self._stream: Iterator[Batch] | None = None

    def step(self, batch: Batch) -> int:
        """One step; how many utterances it took."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(batch.to(torch.device(self.device), non_blocking=True)).total
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        if not loss.isfinite():  # the loop looks at every loss, too
            raise WrongResult("a loss is not finite")
        return len(batch)

    def next(self) -> int:
        """The next step of the epoch, its data included."""
        if self._stream is None:
            self._stream = load_batches(self.collator, self.batches, pin=self.device == "cuda")
        return self.step(next(self._stream))

    def check(self) -> None:
        """Hold the loss of a small batch against the reference backend's in float64.

        Raises:
            WrongResult: they differ.
        """
        batch = self.collator(self.batches[-1][:8]).to(torch.device(self.device))
        self.model.eval()
        with torch.no_grad():
            output = self.model(**batch.inputs)
            wide: dict[str, Any] = {k: v.double() for k, v in output.embeddings.items()}
            arguments = (batch.labels, batch.coordinates)
            loss: Any = self.objective.loss
            found = loss(output.logits, arguments[0], output.embeddings, arguments[1], None).total
            with univa_kernels.use_backend("reference"):
                want = loss(
                    output.logits.double(), arguments[0].double(), wide, arguments[1], None
                ).total
        self.model.train()
        if not abs(found - want) <= 1e-5 * abs(want):
            raise WrongResult(f"its loss is {found:.6f}, the float64 truth {want:.6f}")


def epoch_workload(
    device: str, *, budget: float, hidden_size: int = 192, utterances: int = UTTERANCES
) -> Workload:
    """Steps of an epoch until the budget is over; all of them where it lasts."""
    facts: dict[str, Any] = {"hidden": hidden_size, "utterances": utterances, "dtype": "float32"}

    def entries() -> list[Entry]:
        epoch = _Epoch(hidden_size, device, utterances)
        work.rounds = facts["steps_of_epoch"] = len(epoch.batches)

        def measure(_: int) -> dict[str, float]:
            counts: list[int] = []
            seconds = _seconds(lambda: counts.append(epoch.next()), device)
            return {STEP: seconds, PER_UTTERANCE: seconds / counts[0]}

        last = epoch.batches[-1]
        return [
            Entry(
                name=train_step.OURS,
                measure=measure,
                check=epoch.check,
                warm=lambda: epoch.step(epoch.collator(last[:8])),
            )
        ]

    work = Workload(
        name=f"epoch of MOSEI shape width={hidden_size}",
        kind="epoch",
        facts=facts,
        names=(train_step.OURS,),
        entries=entries,
        budget=budget,
    )
    return work
