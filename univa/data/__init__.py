"""Data: what a corpus is, where it comes from, and how it becomes batches."""

from univa.data.batching.collate import Collator
from univa.data.batching.normalization import AuthorsNormalizer, Normalizer, VANormalizer
from univa.data.batching.sampler import DialogueBatchSampler, UtteranceBatchSampler
from univa.data.corpus import Corpus, Dialogue, Split, Utterance
from univa.data.sources.authors_features import read_authors
from univa.data.sources.authors_text import M3ED_LABELS, MOSEI_LABELS, read_authors_text
from univa.data.sources.synthetic import FILLER_WORDS, WORD_COORDINATES, synthetic_corpus
from univa.data.sources.vectors import read_vectors
from univa.data.store.read import read_store

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
