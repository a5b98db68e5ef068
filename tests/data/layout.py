"""Writes a small folder in the authors' layout, with features."""

import json
import pickle
from pathlib import Path

import numpy as np

SIZES = {"text": 300, "audio": 12, "vision": 10}
PARTS = {"text": ("T", "text_glove300"), "audio": ("A", "audio_utt"), "vision": ("V", "vision_utt")}
LABELS = ("happy", "sad", "anger", "surprise", "disgust", "fear")


def write_layout(
    folder: Path,
    *,
    dialogues: dict[str, list[int]] | None = None,
    modalities: tuple[str, ...] = ("text", "audio", "vision"),
    longest: int = 6,
    audio_size: int = 12,
    seed: int = 0,
) -> Path:
    """Random features and sentences; `dialogues` has the numbers of utterances."""
    rng = np.random.default_rng(seed)
    dialogues = dialogues or {"train": [3, 2, 4], "valid": [2, 1], "test": [2]}
    sizes_of = {**SIZES, "audio": audio_size}
    structure: dict[str, dict[str, list[str]]] = {}
    rows = ["video_id,clip_id,mode,text," + ",".join(LABELS)]
    scores: dict[str, dict[str, list[str]]] = {}
    features = folder / "preprocess_data" / "final_feat"
    for split, sizes in dialogues.items():
        structure[split], scores[split], labels = {}, {}, []
        for number, size in enumerate(sizes):
            video = f"{split}{number}"
            structure[split][video] = [f"{video}_{clip}" for clip in range(size)]
            for clip in range(size):
                present = rng.integers(0, 2, 6)
                labels.append(present)
                text = " ".join(rng.choice(["good", "bad", "day", "film"], 1 + clip))
                rows.append(f"{video},{clip},{split},{text}," + ",".join(map(str, present)))
                point = [f"{value:.4f}" for value in rng.uniform(-1, 1, 2)]
                scores[split][f"{video}_{clip}"] = [text, *point]
        count = sum(sizes)
        for modality in modalities:
            part, name = PARTS[modality]
            (features / part).mkdir(parents=True, exist_ok=True)
            lengths = rng.integers(1, longest + 1, count)
            mask = (np.arange(longest) < lengths[:, None]).astype(np.float32)
            values = rng.standard_normal((count, longest, sizes_of[modality])).astype(np.float32)
            content = {
                modality: values * mask[:, :, None],
                f"{modality}_utt_mask": mask,
                f"{modality}_VA_values": rng.uniform(-1, 1, (count, 2)).tolist(),
            }
            if modality != "text":
                content = {split: {**content, "labels_class": np.array(labels, np.float32)}}
            path = features / part / f"MOSEI_{split}_{name}_VA.pkl"
            path.write_bytes(pickle.dumps(content, protocol=4))
    (folder / "final_multi_labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "preprocess_data" / "videos_structure.json").write_text(json.dumps(structure))
    (folder / "preprocess_data" / "raw_utt_text_textVA.json").write_text(json.dumps(scores))
    return folder


def features_of(folder: Path, split: str, modality: str) -> dict:
    """The content of a feature file, by Python's own unpickler."""
    part, name = PARTS[modality]
    path = folder / "preprocess_data/final_feat" / part / f"MOSEI_{split}_{name}_VA.pkl"
    content = pickle.loads(path.read_bytes())
    return content.get(split, content)
