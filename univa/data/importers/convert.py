"""From the authors' file layout to a store, and the check of its sums.

univa data convert FOLDER STORE
univa data verify STORE
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from univa.batch import MODALITIES, Modality
from univa.data.sources.authors_features import feature_file, read_authors
from univa.data.store.read import MEND, file_sha256, read_manifest, read_store
from univa.data.store.write import (
    StoreOptions,
    fingerprints,
    refuse_finished,
    show_store,
    write_store,
)
from univa.errors import UserError
from univa.utils.console import note
from univa.utils.console import progress as show_progress

__all__ = ["Convert", "Verify", "convert"]


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
    options = StoreOptions(dtype=dtype, shard_megabytes=shard_megabytes, progress=progress)
    refuse_finished(store)
    present = _present(folder)
    corpus = read_authors(folder, modalities=[m for m in present if m != "text"])
    vectors = (
        read_authors(folder, modalities=("text",), text="vectors") if "text" in present else None
    )
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix in (".pkl", ".json", ".csv"))
    write_store(corpus, store, options, source=fingerprints(files, folder), vectors=vectors)


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


@dataclass(kw_only=True)
class Convert:
    """Turn a folder in the authors' layout into a store: shards without padding, checksums."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder in the authors' layout."""
    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder for the store. A conversion that was stopped goes on there."""
    options: Annotated[StoreOptions, tyro.conf.arg(name="")] = field(default_factory=StoreOptions)
    """How the store is written."""

    def run(self) -> dict[str, Any]:
        """Convert and say what there is.

        Raises:
            UserError: as `convert`.
        """
        convert(self.folder, self.store, **vars(self.options))
        document = show_store(self.store)
        lines = read_manifest(self.store)
        if not any("text" in line["va"] for line in lines if line["kind"] == "utterance"):
            note(
                "without valence-arousal scores of the text, which presets with a text encoder "
                "need: preprocess_data/raw_utt_text_textVA.json is not there"
            )
        return document


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
