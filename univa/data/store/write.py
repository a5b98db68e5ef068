"""Writes a store: shard after shard, and the manifest last.

Memory stays bounded whatever the size of the corpus: one shard is in memory at a time. A run that
was stopped goes on where it was: shards are written whole or not at all, `progress.jsonl` lists
those that are done, and the manifest is written last. A damaged shard is mended by deleting the
manifest and running the same command again: shards whose checksum fits are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from univa.batch import MODALITIES, Modality
from univa.data.corpus import Corpus, FeatureSlice, LazyFeatures
from univa.data.store.read import MANIFEST, PROGRESS, VERSION, file_sha256, read_manifest
from univa.errors import UserError
from univa.utils.console import progress as show_progress
from univa.utils.files import atomic_path, atomic_write_text, make_folder
from univa.utils.lock import FolderLock

__all__ = ["StoreOptions", "fingerprints", "refuse_finished", "show_store", "write_store"]


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """How a store is written."""

    dtype: Literal["float32", "float16"] = "float32"
    """Of the features in the store; float16 halves it."""
    shard_megabytes: int = 64
    """Most megabytes (2^20 bytes) of a shard; about three times as much memory is used."""
    progress: bool = True
    """Draw a progress bar."""

    def __post_init__(self) -> None:
        if self.shard_megabytes < 1:
            raise UserError(f"--shard-megabytes: {self.shard_megabytes} is less than 1")


@dataclass(frozen=True)
class _Plan:
    """One shard: whose it is, and which sequences it holds."""

    name: str
    modality: Modality
    places: list[tuple[str, FeatureSlice]]  # utterance id, where its steps are now

    @property
    def rows(self) -> int:
        return sum(place.steps for _, place in self.places)


def write_store(
    corpus: Corpus,
    store: Path,
    options: StoreOptions,
    *,
    source: Mapping[str, Any],
    vectors: Corpus | None = None,
    extras: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    """Write a corpus whose features are read when they are asked for.

    Args:
        corpus: text, labels, scores and features; those of text are word vectors.
        store: folder for the store; what a stopped run of the same command left is gone on with.
        options: how.
        source: what the corpus was made from (`fingerprints` of its files, options), as JSON: a
            run goes on only with the same.
        vectors: the same utterances, with the word vectors and the scores that go with them, where
            these differ.
        extras: utterance id -> what else the manifest says of it, such as its speaker.

    Raises:
        UserError: a value is bad, or `store` is finished, belongs to another run, or is being
            written by another process.
    """
    refuse_finished(store)
    size = np.dtype(options.dtype).itemsize
    plans = list(_plans(corpus, vectors, size, options.shard_megabytes << 20))
    head = {
        "kind": "store",
        "version": VERSION,
        "labels": list(corpus.label_names),
        "dtype": options.dtype,
        "features": {plan.modality: plan.places[0][1].size for plan in plans},
        "shards": len(plans),
        "source": dict(source),
    }
    make_folder(store)
    lines: list[dict[str, Any]] = [head]
    where: dict[tuple[str, Modality], list[Any]] = {}
    steps = sum(plan.rows for plan in plans)
    with FolderLock(store) as lock, ExitStack() as stack:
        lock.take()
        refuse_finished(store)  # another process may have written it meanwhile
        done = _done(store, head)
        log = stack.enter_context((store / PROGRESS).open("a", encoding="utf-8"))
        bar = stack.enter_context(show_progress(total=steps, scale=True, enabled=options.progress))
        if log.tell() == 0:
            log.write(json.dumps(head) + "\n")
        for plan in plans:
            path = store / plan.name
            sha256 = done.get(plan.name)
            if sha256 is None or not path.exists() or file_sha256(path) != sha256:
                sha256 = _write(path, plan, options.dtype)
                log.write(json.dumps({"name": plan.name, "sha256": sha256}) + "\n")
                log.flush()
            lines.append(
                {
                    "kind": "shard",
                    "name": plan.name,
                    "modality": plan.modality,
                    "rows": plan.rows,
                    "bytes": path.stat().st_size,
                    "sha256": sha256,
                }
            )
            start = 0
            for name, place in plan.places:
                where[name, plan.modality] = [plan.name, start, place.steps]
                start += place.steps
            bar.update(plan.rows)
        lines += _utterances(corpus, vectors, where, extras)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        digest = hashlib.sha256(text.encode()).hexdigest()
        end = json.dumps({"kind": "end", "sha256": digest})
        atomic_write_text(store / MANIFEST, f"{text}{end}\n")


def refuse_finished(store: Path) -> None:
    """UserError where a finished store is: to be called before costly work."""
    if (store / MANIFEST).exists():
        raise UserError(
            f"{store}: a finished store is here; give another folder, or delete it (where `univa "
            f"data verify` finds it damaged: delete {MANIFEST} alone, and sound shards are kept)"
        )


def fingerprints(files: Iterable[Path], root: Path | None = None) -> dict[str, list[int]]:
    """Size and time of files, by their path from `root`, or by their whole path."""
    found = {}
    for path in sorted(set(files)):
        state = path.stat()
        name = path.resolve() if root is None else path.relative_to(root)
        found[str(name)] = [state.st_size, state.st_mtime_ns]
    return found


def show_store(store: Path) -> dict[str, Any]:
    """Print one line about a finished store; return the same for machines."""
    size = sum(file.stat().st_size for file in store.glob("*.safetensors"))
    count = sum(line["kind"] == "utterance" for line in read_manifest(store))
    print(f"{count} utterances, {size / 2**20:.1f} MiB of features in {store}")
    return {"store": store, "utterances": count, "bytes": size}


def _plans(
    corpus: Corpus, vectors: Corpus | None, itemsize: int, most_bytes: int
) -> Iterator[_Plan]:
    for modality in MODALITIES:
        source = vectors if modality == "text" and vectors is not None else corpus
        for split_name, split in source.splits.items():
            places: list[tuple[str, FeatureSlice]] = []
            number = size = 0
            for utterance in split.utterances:
                features = utterance.features
                if not isinstance(features, LazyFeatures) or modality not in features:
                    break
                place = features.places[modality]
                needed = place.steps * place.size * itemsize
                if places and size + needed > most_bytes:
                    yield _Plan(
                        f"{split_name}-{modality}-{number:05}.safetensors", modality, places
                    )
                    places, size, number = [], 0, number + 1
                places.append((utterance.id, place))
                size += needed
            if places:
                yield _Plan(f"{split_name}-{modality}-{number:05}.safetensors", modality, places)


def _done(store: Path, head: dict[str, Any]) -> dict[str, str]:
    """Shards that an earlier run of the same conversion has finished: name -> SHA-256."""
    path = store / PROGRESS
    if not path.exists():
        if any(store.iterdir()):
            raise UserError(f"{store}: not empty, and no conversion that could go on; give another")
        return {}
    done: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    whole = lines[:-1]  # the line under way when the process died is not
    try:
        if whole and json.loads(whole[0]) != head:
            raise UserError(
                f"{store}: begun with other options or other files; give another folder, or delete "
                "it"
            )
        for line in whole[1:]:
            entry = json.loads(line)
            done[entry["name"]] = entry["sha256"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; delete {store} and start anew") from None
    path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
    for half in store.glob(".*.tmp-*.safetensors"):  # what was under way when the process died
        half.unlink()
    return done


def _write(path: Path, plan: _Plan, dtype: str) -> str:
    size = plan.places[0][1].size
    features: NDArray[Any] = np.empty((plan.rows, size), dtype)
    start = 0
    for name, place in plan.places:
        values = place.source.read(place.start, place.steps).numpy()
        with np.errstate(over="ignore"):
            features[start : start + place.steps] = values
        if dtype == "float16" and not np.isfinite(features[start : start + place.steps]).all():
            raise UserError(
                f"{path}: {plan.modality} features of utterance {name!r} are too large for float16 "
                f"(up to {np.abs(values).max():g}); give --dtype float32"
            )
        start += place.steps
    try:
        with atomic_path(path) as temporary:
            save_file({"features": features}, temporary)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: cannot write: {error}; make room and give the same command again, it goes on"
        ) from error
    return file_sha256(path)


def _utterances(
    corpus: Corpus,
    vectors: Corpus | None,
    where: dict[tuple[str, Modality], list[Any]],
    extras: Mapping[str, Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    for name, split in corpus.splits.items():
        others = split.utterances if vectors is None else vectors.splits[name].utterances
        for utterance, other in zip(split.utterances, others, strict=True):
            scores: dict[str, tuple[float, float]] = {
                str(modality): point for modality, point in utterance.coordinates.items()
            }
            if (utterance.id, "text") in where and "text" in other.coordinates:
                scores["text_vectors"] = other.coordinates["text"]
            yield {
                **extras.get(utterance.id, {}),
                "kind": "utterance",
                "split": name,
                "dialogue": utterance.dialogue_id,
                "id": utterance.id,
                "text": utterance.text,
                "labels": utterance.labels.int().tolist(),
                "va": {key: list(point) for key, point in scores.items()},
                "features": {
                    modality: where[utterance.id, modality]
                    for modality in MODALITIES
                    if (utterance.id, modality) in where
                },
            }
