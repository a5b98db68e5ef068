"""From the authors' file layout to a store: `univa data convert FOLDER STORE`.

Memory stays bounded whatever the size of the files: one shard is in memory at a time. A run that
was stopped goes on where it was: shards are written whole or not at all, `progress.jsonl` lists
those that are done, and the manifest is written last. A damaged shard is mended by deleting the
manifest and running the same conversion again: shards whose checksum fits are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from univa.batch import MODALITIES, Modality
from univa.console import progress as show_progress
from univa.data.authors_features import feature_file, read_authors
from univa.data.corpus import Corpus, LazyFeatures, Place
from univa.data.store import (
    MANIFEST,
    MEND,
    PROGRESS,
    VERSION,
    file_sha256,
    read_manifest,
    read_store,
)
from univa.errors import UserError
from univa.files import atomic_path, atomic_write_text, make_folder

__all__ = ["Convert", "Verify", "convert"]


@dataclass(frozen=True)
class _Plan:
    """One shard: whose it is, and which sequences it holds."""

    name: str
    modality: Modality
    places: list[tuple[str, Place]]  # utterance id, where its steps are now

    @property
    def rows(self) -> int:
        return sum(place.steps for _, place in self.places)


def convert(
    folder: Path,
    store: Path,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    shard_megabytes: int = 64,
    progress: bool = True,
) -> None:
    """Write a store of a folder in the authors' layout.

    Args:
        folder: the layout; the feature files that are there are converted.
        store: folder for the store; what a stopped run of the same conversion left is gone on with.
        dtype: of the features in the store.
        shard_megabytes: most megabytes (2^20 bytes) of a shard; about three times as much memory
            is used.
        progress: draw a progress bar.

    Raises:
        UserError: bad data, or `store` is finished or belongs to another conversion.
    """
    if (store / MANIFEST).exists():
        raise UserError(
            f"{store}: a finished store is here; give another folder, or delete it (where `univa "
            f"data verify` finds it damaged: delete {MANIFEST} alone, and sound shards are kept)"
        )
    present = _present(folder)
    corpus = read_authors(folder, modalities=[m for m in present if m != "text"])
    vectors = (
        read_authors(folder, modalities=("text",), text="vectors") if "text" in present else None
    )
    plans = list(_plans(corpus, vectors, np.dtype(dtype).itemsize, shard_megabytes << 20))
    head = {
        "kind": "store",
        "version": VERSION,
        "labels": list(corpus.label_names),
        "dtype": dtype,
        "features": {plan.modality: plan.places[0][1].size for plan in plans},
        "shards": len(plans),
        "source": _source(folder),
    }
    make_folder(store)
    done = _done(store, head)
    lines = [head]
    where: dict[tuple[str, Modality], list[Any]] = {}
    steps = sum(plan.rows for plan in plans)
    with (
        (store / PROGRESS).open("a", encoding="utf-8") as log,
        show_progress(total=steps, scale=True, enabled=progress) as bar,
    ):
        if log.tell() == 0:
            log.write(json.dumps(head) + "\n")
        for plan in plans:
            path = store / plan.name
            sha256 = done.get(plan.name)
            if sha256 is None or not path.exists() or file_sha256(path) != sha256:
                sha256 = _write(path, plan, dtype)
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
    lines += _utterances(corpus, vectors, where)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    digest = hashlib.sha256(text.encode()).hexdigest()
    atomic_write_text(store / MANIFEST, text + json.dumps({"kind": "end", "sha256": digest}) + "\n")


def _present(folder: Path) -> list[Modality]:
    """The modalities whose files are there for every split."""
    present: list[Modality] = []
    for modality in MODALITIES:
        found = []
        for split in ("train", "valid", "test"):
            try:
                found.append(feature_file(folder, split, modality))
            except UserError:
                if found:
                    raise
                break
        if found:
            present.append(modality)
    if not present:
        feature_file(folder, "train", "audio")  # says what is missing
    return present


def _source(folder: Path) -> dict[str, list[int]]:
    """Size and time of every file of the layout: a conversion goes on only with the same files."""
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and p.suffix in (".pkl", ".json", ".csv")
    )
    return {
        str(path.relative_to(folder)): [path.stat().st_size, path.stat().st_mtime_ns]
        for path in files
    }


def _plans(
    corpus: Corpus, vectors: Corpus | None, itemsize: int, most_bytes: int
) -> Iterator[_Plan]:
    for modality in MODALITIES:
        source = vectors if modality == "text" else corpus
        if source is None:
            continue
        for split_name, split in source.splits.items():
            places: list[tuple[str, Place]] = []
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
    corpus: Corpus, vectors: Corpus | None, where: dict[tuple[str, Modality], list[Any]]
) -> Iterator[dict[str, Any]]:
    for name, split in corpus.splits.items():
        others = split.utterances if vectors is None else vectors.splits[name].utterances
        for utterance, other in zip(split.utterances, others, strict=True):
            scores: dict[str, tuple[float, float]] = {
                str(modality): point for modality, point in utterance.coordinates.items()
            }
            if vectors is not None:
                scores["text_vectors"] = other.coordinates["text"]
            yield {
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


@dataclass(kw_only=True)
class Convert:
    """Turn a folder in the authors' layout into a store: shards without padding, checksums."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder in the authors' layout."""
    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder for the store. A conversion that was stopped goes on there."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the features in the store; float16 halves it."""
    shard_megabytes: int = 64
    """Most megabytes of a shard; about three times as much memory is used."""
    progress: bool = True
    """Draw a progress bar."""

    def run(self) -> dict[str, Any]:
        """Convert and say what there is.

        Raises:
            UserError: as `convert`.
        """
        if self.shard_megabytes < 1:
            raise UserError(f"--shard-megabytes: {self.shard_megabytes} is less than 1")
        convert(
            self.folder,
            self.store,
            dtype=self.dtype,
            shard_megabytes=self.shard_megabytes,
            progress=self.progress,
        )
        size = sum(file.stat().st_size for file in self.store.glob("*.safetensors"))
        count = sum(line["kind"] == "utterance" for line in read_manifest(self.store))
        print(f"{count} utterances, {size / 2**20:.1f} MiB of features in {self.store}")
        return {"store": self.store, "utterances": count, "bytes": size}


@dataclass(kw_only=True)
class Verify:
    """Compare every file of a store with its checksum."""

    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder of the store."""

    def run(self) -> dict[str, Any]:
        """Check the manifest and every shard.

        Raises:
            UserError: one is missing or damaged; it is named.
        """
        read_store(self.store, modalities=())  # the manifest's head says what there is
        features = next(read_manifest(self.store))["features"]
        text: Literal["vectors", "tokens"] = "vectors" if "text" in features else "tokens"
        corpus = read_store(self.store, modalities=tuple(features), text=text)
        shards = [line for line in read_manifest(self.store) if line["kind"] == "shard"]
        for line in show_progress(shards, "reading", unit="shard"):
            path = self.store / line["name"]
            try:
                sound = file_sha256(path) == line["sha256"]
            except OSError:
                sound = False
            if not sound:
                raise UserError(f"{path}: missing or damaged; {MEND}")
        count = sum(len(split) for split in corpus.splits.values())
        print(f"{self.store}: {len(shards)} shards and {count} utterances are sound")
        return {"store": self.store, "shards": len(shards), "utterances": count}
