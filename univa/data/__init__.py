"""Data: what a corpus is, where it comes from, and how it becomes batches."""

from univa.data.authors_text import M3ED_LABELS, MOSEI_LABELS, read_authors_text
from univa.data.collate import Collator
from univa.data.corpus import Corpus, Dialogue, Split, Utterance
from univa.data.normalization import VANormalizer
from univa.data.sampler import DialogueBatchSampler
from univa.data.synthetic import FILLER_WORDS, WORD_COORDINATES, synthetic_corpus

__all__ = [
    "FILLER_WORDS",
    "M3ED_LABELS",
    "MOSEI_LABELS",
    "WORD_COORDINATES",
    "Collator",
    "Corpus",
    "Dialogue",
    "DialogueBatchSampler",
    "Split",
    "Utterance",
    "VANormalizer",
    "read_authors_text",
    "synthetic_corpus",
]
