"""The UniVA model (Zheng, Yu, Xia, ACM MM 2024, 10.1145/3664647.3681638)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from univa.batch import BucketedSequences, FeatureSequence, Modality, TokenizedDialogues
from univa.errors import UserError
from univa.models import serialization
from univa.models.attention import AdditiveAttentionPooling
from univa.models.card import CardFacts, model_card
from univa.models.configuration import ModelConfig
from univa.models.encoder import (
    DialogueEncoder,
    TransformerEncoder,
    initialize,
    load_text_encoder,
)
from univa.models.validation import check_dialogues, check_sequence

__all__ = ["UniVA", "UniVAOutput"]


class UniVAOutput(NamedTuple):
    """What the model gives, under the names that the loss takes.

    Attributes:
        logits: [B, L], before softmax or sigmoid.
        embeddings: modality -> [B, D], for the contrastive loss; not normalised.
        similarity: [L, L] the trainable emotion similarity matrix, or None.
    """

    logits: Tensor
    embeddings: dict[Modality, Tensor]
    similarity: Tensor | None


class UniVA(nn.Module):
    """One encoder and one additive-attention pooling per modality, concatenation, classifier.

    Text is either token rows of whole dialogues, read by a pretrained encoder that sees every row
    once however many utterances are picked from it, or a sequence of word vectors per utterance.
    Audio and vision are sequences of feature vectors.

    Args:
        config: sizes and parts.
        similarity: [L, L] initial emotion similarity matrix, see
            `univa.data.lexicon.similarity_matrix`; given exactly when `config.prior`.
        text_encoder: a ready encoder in place of the one that `config.text_encoder` names.

    Raises:
        ValueError: `similarity` or `text_encoder` does not go with `config`.
        UserError: the text encoder cannot be loaded.

    Example:
        >>> config = ModelConfig(labels=("happy", "sad"), modalities=("audio",), audio_dim=4,
        ...                      hidden_size=8, num_heads=2, feedforward_size=16, prior=False)
        >>> model = UniVA(config)
        >>> audio = FeatureSequence(features=torch.randn(3, 5, 4), mask=torch.ones(3, 5).bool())
        >>> model(audio=audio).logits.shape
        torch.Size([3, 2])
    """

    similarity: nn.Parameter | None

    def __init__(
        self,
        config: ModelConfig,
        *,
        similarity: Tensor | None = None,
        text_encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if text_encoder is not None and not self._reads_dialogues(config):
            raise ValueError("text_encoder is given, but the configuration has no text encoder")
        self.similarity = self._similarity_parameter(config, similarity)

        self.encoders = nn.ModuleDict()
        for modality in config.modalities:
            if modality == "text" and config.text_encoder is not None:
                self.encoders[modality] = DialogueEncoder(
                    text_encoder or load_text_encoder(config.text_encoder),
                    config.hidden_size,
                    dropout=config.dropout,
                    frozen=config.freeze_text_encoder,
                )
            else:
                self.encoders[modality] = TransformerEncoder(
                    config.feature_size(modality),
                    config.hidden_size,
                    num_layers=config.num_layers(modality),
                    max_length=config.max_length(modality),
                    num_heads=config.num_heads,
                    feedforward_size=config.feedforward_size,
                    dropout=config.dropout,
                    layer_norm_eps=config.layer_norm_eps,
                )
        self.poolings = nn.ModuleDict(
            {modality: AdditiveAttentionPooling(config.hidden_size) for modality in self.encoders}
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(len(config.modalities) * config.hidden_size, len(config.labels))
        if config.initializer_range is not None:
            for name, part in self.named_children():
                if name != "encoders":
                    initialize(part, config.initializer_range)
            for encoder in self.encoders.values():
                own = encoder.projection if isinstance(encoder, DialogueEncoder) else encoder
                initialize(own, config.initializer_range)
        self.train()

    @staticmethod
    def _reads_dialogues(config: ModelConfig) -> bool:
        return "text" in config.modalities and config.text_encoder is not None

    @staticmethod
    def _similarity_parameter(
        config: ModelConfig, similarity: Tensor | None
    ) -> nn.Parameter | None:
        if not config.prior:
            if similarity is not None:
                raise ValueError("similarity is given, but the configuration has prior=False")
            return None
        size = len(config.labels)
        if similarity is None:
            raise ValueError(
                "similarity is missing: prior=True needs the initial matrix, "
                "for example univa.data.lexicon.similarity_matrix(labels)"
            )
        if similarity.shape != (size, size):
            raise ValueError(
                f"similarity must be [{size}, {size}] for {size} labels, "
                f"got {list(similarity.shape)}"
            )
        return nn.Parameter(similarity.detach().float().clone())

    @property
    def max_tokens(self) -> int | None:
        """Longest token row that the text encoder takes; None without one or without a limit."""
        encoder = self._dialogue_encoder
        return None if encoder is None else encoder.max_tokens

    def text_encoder_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of the pretrained text encoder, for a learning rate of their own."""
        encoder = self._dialogue_encoder
        if encoder is None:
            return []
        return [part for part in encoder.pretrained.parameters() if part.requires_grad]

    @property
    def _dialogue_encoder(self) -> DialogueEncoder | None:
        if "text" not in self.encoders:
            return None
        encoder = self.encoders["text"]
        return encoder if isinstance(encoder, DialogueEncoder) else None

    def forward(
        self,
        *,
        text: TokenizedDialogues | FeatureSequence | BucketedSequences | None = None,
        audio: FeatureSequence | BucketedSequences | None = None,
        vision: FeatureSequence | BucketedSequences | None = None,
    ) -> UniVAOutput:
        """Score B utterances; call as `model(**batch.inputs)`.

        A modality that the configuration lacks is ignored, so that one data set serves every
        subset of modalities. On the CPU the values of masks and ids are checked too; on another
        device that would wait for it, and an utterance without a single real step becomes NaN.

        Args:
            text: token rows with a text encoder, word vectors without.
            audio: audio features [B, T, audio_dim].
            vision: visual features [B, T, vision_dim].

        Returns:
            Logits, embeddings and the similarity matrix.

        Raises:
            ValueError: an input is missing, too long, or of another size or kind than the
                configuration has; the message names the argument.
        """
        given: dict[Modality, Any] = {"text": text, "audio": audio, "vision": vision}
        embeddings: dict[Modality, Tensor] = {}
        size: int | None = None
        for modality in self.config.modalities:
            value = given[modality]
            if value is None:
                raise ValueError(f"{modality} is missing; the model sees {self._modality_names()}")
            embedding = self._embed(modality, value)  # [B, D]
            if size is not None and len(embedding) != size:
                raise ValueError(
                    f"{modality} holds {len(embedding)} utterances, "
                    f"{self.config.modalities[0]} holds {size}"
                )
            size = len(embedding)
            embeddings[modality] = embedding
        joint = torch.cat([embeddings[modality] for modality in self.config.modalities], dim=1)
        logits = self.classifier(self.dropout(joint))  # [B, L]
        return UniVAOutput(logits=logits, embeddings=embeddings, similarity=self.similarity)

    def _embed(self, modality: Modality, value: Any) -> Tensor:
        encoder, pooling = self.encoders[modality], self.poolings[modality]
        if isinstance(encoder, DialogueEncoder):
            check_dialogues(
                modality,
                value,
                max_tokens=encoder.max_tokens,
                vocabulary_size=encoder.vocabulary_size,
            )
            states = encoder(value.input_ids, value.attention_mask)  # [G, T, D]
            return pooling.pool_spans(states, value.dialogue_index, value.utterance_mask)  # type: ignore[operator]
        if isinstance(value, BucketedSequences):
            parts = torch.cat([self._embed(modality, part) for part in value.parts])
            return parts[value.order]
        check_sequence(
            modality,
            value,
            feature_size=self.config.feature_size(modality),
            max_length=self.config.max_length(modality),
        )
        return pooling(encoder(value.features, value.mask), value.mask)

    def _modality_names(self) -> str:
        return ", ".join(self.config.modalities)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        tokenizer: Any = None,
        extra_metadata: Mapping[str, str] | None = None,
        card: CardFacts | None = None,
    ) -> None:
        """Write `config.json`, `model.safetensors`, the model card `README.md` and, with a text
        encoder, its configuration.

        Each file is renamed into place when it is whole; other files in the folder stay.

        Args:
            folder: made if need be.
            tokenizer: a transformers tokenizer, kept in the subfolder `text_encoder`.
            extra_metadata: text to keep in the header of `model.safetensors`.
            card: what the card says beyond the model itself; None says that it is not stated.

        Raises:
            UserError: the folder cannot be written.
        """
        encoder = self._dialogue_encoder
        serialization.save(
            self,
            Path(folder),
            config_json=self.config.to_json(),
            card=model_card(self.config, card or CardFacts()),
            text_encoder=None if encoder is None else encoder.pretrained,
            tokenizer=tokenizer,
            extra_metadata=extra_metadata,
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> UniVA:
        """Read a model that `save_pretrained` wrote; neither hub nor original encoder is needed.

        Returns:
            The model on the CPU, in evaluation mode.

        Raises:
            UserError: a file is missing or broken, or the weights are of another configuration.
        """
        folder = Path(folder)
        config = ModelConfig.from_json(folder / serialization.CONFIG_FILE)
        encoder = None
        if cls._reads_dialogues(config):
            source = folder / serialization.ENCODER_FOLDER
            if not source.is_dir():
                raise UserError(f"{source}: the text encoder's configuration is missing")
            encoder = load_text_encoder(source, weights=False)
        size = len(config.labels)
        model = cls(
            config,
            similarity=torch.zeros(size, size) if config.prior else None,
            text_encoder=encoder,
        )
        serialization.load_weights(model, folder / serialization.WEIGHTS_FILE)
        return model.eval()
