"""Data: what a corpus is, where it comes from, and how it becomes batches."""

from univa.data.authors_features import read_authors
from univa.data.authors_text import M3ED_LABELS, MOSEI_LABELS, read_authors_text
from univa.data.collate import Collator
from univa.data.corpus import Corpus, Dialogue, Split, Utterance
from univa.data.normalization import AuthorsNormalizer, Normalizer, VANormalizer
from univa.data.sampler import DialogueBatchSampler, UtteranceBatchSampler
from univa.data.store import read_store
from univa.data.synthetic import FILLER_WORDS, WORD_COORDINATES, synthetic_corpus
from univa.data.vectors import read_vectors

__all__ = [
    "FILLER_WORDS",
    "M3ED_LABELS",
    "MOSEI_LABELS",
    "WORD_COORDINATES",
    "AuthorsNormalizer",
    "Collator",
    "Corpus",
    "Dialogue",
    "DialogueBatchSampler",
    "Normalizer",
    "Split",
    "Utterance",
    "UtteranceBatchSampler",
    "VANormalizer",
    "read_authors",
    "read_authors_text",
    "read_store",
    "read_vectors",
    "synthetic_corpus",
]
