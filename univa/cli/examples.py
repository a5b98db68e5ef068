"""One example for each command, which its `--help` ends with."""

__all__ = ["EXAMPLES"]

EXAMPLES = {
    "train": "univa train demo --epochs 2 --run-folder runs/first",
    "evaluate": "univa evaluate runs/first --split valid --json",
    "ablate": "univa ablate demo --epochs 1 --seeds 1 2 --tables 2",
    "figures": "univa figures runs/without-va-cl runs/first --output figures",
    "report": "univa report runs/first --output report.html",
    "predict": "univa predict runs/first dialogues.jsonl --output predictions.jsonl",
    "convert-checkpoint": "univa convert-checkpoint best_model.pth model "
    "--text-encoder roberta-base",
    "data convert": "univa data convert download store --dtype float16",
    "data import-table": "univa data import-table mine.csv store --dtype float16",
    "data import-csd": "univa data import-csd LABELS.csd store --folds folds.json",
    "data import-m3ed": "univa data import-m3ed annotation.json store --splits splits",
    "data check": "univa data check store --json",
    "data verify": "univa data verify store",
    "va fit-text": "univa va fit-text --data emobank.csv --encoder minilm --output va-scorer",
    "va fit-audio": "univa va fit-audio --data clips.csv --encoder wavlm --output va-audio",
    "va fit-vision": "univa va fit-vision --data frames.csv --encoder clip --output va-vision",
    "va score": "univa va score --modality audio --model va-audio --manifest manifest.csv "
    "--output audio-va.json",
    "va score-text": "univa va score-text --scorer va-scorer --data corpus --output va.json",
    "data extract-audio": "univa data extract-audio --manifest manifest.csv --encoder wavlm "
    "--output audio-features",
    "data extract-vision": "univa data extract-vision --manifest manifest.csv --encoder clip "
    "--output vision-features",
}
