"""The UniVA model and its parts. Knows no data set."""

from univa.models.attention import AdditiveAttentionPooling
from univa.models.authors import from_authors_state_dict
from univa.models.configuration import ModelConfig
from univa.models.encoder import TransformerEncoder
from univa.models.univa import UniVA, UniVAOutput

__all__ = [
    "AdditiveAttentionPooling",
    "ModelConfig",
    "TransformerEncoder",
    "UniVA",
    "UniVAOutput",
    "from_authors_state_dict",
]
