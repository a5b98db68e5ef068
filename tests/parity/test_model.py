"""The authors' whole model and objective, number for number.

The objective is written out here in plain PyTorch: this file checks the model, not the kernels.
"""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from tests.models.determined import determined, undetermined
from univa.batch import FeatureSequence, TokenizedDialogues
from univa.models import ModelConfig, UniVA, from_authors_state_dict
from univa.models.encoder import load_text_encoder

TOLERANCE = 2e-5  # relative, of float32 numbers
CASES = ["mosei_roberta", "m3ed_bert", "mosei_glove"]
WEIGHTS = {
    "MOSEI": {"text": 3, "audio": 1, "vision": 1},
    "M3ED": {"text": 1, "audio": 1, "vision": 1},
}


class Case:
    """One golden case: hyper-parameters, tensors by prefix, and our model with its weights."""

    def __init__(self, folder, dtype):
        self.options = json.loads((folder / "case.json").read_text())
        tensors = load_file(folder / "case.safetensors")

        def part(prefix):
            chosen = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            return {k: v.to(dtype) if v.is_floating_point() else v for k, v in chosen.items()}

        self.state, self.inputs = part("state."), part("in.")
        self.outputs, self.gradients = part("out."), part("grad.")
        plm = (folder / "text_encoder").is_dir()
        options = self.options
        config = ModelConfig(
            labels=tuple(f"emotion {i}" for i in range(options["num_multi_labels"])),
            hidden_size=options["hidden_size"],
            num_heads=options["num_attention_heads"],
            feedforward_size=options["intermediate_size"],
            dropout=0.0,
            layer_norm_eps=options["layer_norm_eps"],
            text_encoder=str(folder / "text_encoder") if plm else None,
            text_dim=self.inputs["text"].shape[-1],
            audio_dim=options["audio_feat_dim"],
            vision_dim=options["vision_feat_dim"],
            text_layers=options["text_num_transformer_layers"],
            audio_layers=options["audio_num_transformer_layers"],
            vision_layers=options["vision_num_transformer_layers"],
            max_text_length=options["get_text_utt_max_lens"],
            max_audio_length=options["get_audio_utt_max_lens"],
            max_vision_length=options["get_vision_utt_max_lens"],
        )
        encoder = load_text_encoder(folder / "text_encoder", weights=False) if plm else None
        size = len(config.labels)
        self.model = UniVA(config, similarity=torch.zeros(size, size), text_encoder=encoder)
        self.model.load_state_dict(from_authors_state_dict(self.state))  # strict: all of them
        self.model.to(dtype).eval()  # their run: train mode, every dropout 0

    def modality_inputs(self):
        data = self.inputs
        result = {
            name: FeatureSequence(features=data[name], mask=data[f"{name}_mask"] > 0)
            for name in ("text", "audio", "vision")
        }
        if "text_utterance_mask" in data:
            # The authors give one row of tokens per utterance.
            result["text"] = TokenizedDialogues(
                input_ids=data["text"],
                attention_mask=data["text_mask"],
                dialogue_index=torch.arange(len(data["text"])),
                utterance_mask=data["text_utterance_mask"] > 0,
            )
        return result

    def contrastive(self, embeddings):
        weights = WEIGHTS[self.options["DATASET"]]
        terms = [
            weights[name]
            * contrastive(
                embeddings[name],
                self.inputs[f"{name}_va"],
                self.options["temperature"],
                self.options["thres_dist"],
            )
            for name in embeddings
        ]
        return torch.stack(terms).sum() / 3

    def multilabel(self, logits, similarity):
        guess = logits.log_softmax(1)
        target = self.inputs["labels"].softmax(1)
        divergence = 1000 * (target * (target.log() - guess)).mean()
        gap = (guess.T[:, None] - guess.T[None]).square().sum(2)  # [L, L]
        norm = gap.where(gap > 0, torch.ones_like(gap)).sqrt() * (gap > 0)
        return divergence + (similarity * norm).sum() / len(guess)


def contrastive(embeddings, coordinates, temperature, radius):
    """Two equal views: the self pair weighs one half, and the constant log 2."""
    scores = embeddings @ embeddings.T / temperature
    same = torch.eye(len(scores), dtype=torch.bool)
    gaps = (coordinates[:, None] - coordinates[None]).norm(dim=2)
    positive = ((gaps < radius) & ~same).to(scores) + 0.5 * same
    total = torch.logsumexp(scores + math.log(0.5) * same, 1)
    mean = (positive * scores).sum(1) / positive.sum(1)
    return (total - mean).mean() + math.log(2)


@pytest.fixture(params=CASES)
def folder(request, golden):
    return golden / request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_loss_and_every_gradient(folder, dtype):
    case = Case(folder, dtype)
    output = case.model(**case.modality_inputs())
    assert list(output.embeddings) == ["text", "audio", "vision"]

    chosen = output.logits.softmax(1) > case.options["thres_kl"]
    assert torch.equal(chosen.to(dtype), case.outputs["predictions"])

    multilabel = case.multilabel(output.logits, output.similarity)
    contrast = case.contrastive(output.embeddings)
    alpha = case.options["alpha"]
    loss = (1 - alpha) * multilabel + alpha * contrast
    for name, ours in (
        ("multilabel_plus_prior", multilabel),
        ("contrastive", contrast),
        ("loss", loss),
    ):
        torch.testing.assert_close(ours, case.outputs[name], rtol=TOLERANCE, atol=0)

    loss.backward()
    theirs = from_authors_state_dict(case.gradients)
    ours = {name: part.grad for name, part in case.model.named_parameters()}
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        for tensor in (ours[name], expected):
            # A softmax takes these out: the true gradient is 0, both sides hold rounding.
            noise = undetermined(name, tensor)
            assert noise.numel() == 0 or noise.abs().max() < 1e-6, name
        got, wanted = determined(name, ours[name]), determined(name, expected)
        pairs = {name: (got, wanted)} if wanted.numel() else {}
        if ".query_key_value." in name:  # parts of theirs, each on its own scale
            count = 2 if name.endswith("bias") else 3
            pairs = {
                f"{name} {part}": pair
                for part, *pair in zip(
                    range(count), got.chunk(count), wanted.chunk(count), strict=True
                )
            }
        for part, (got, wanted) in pairs.items():
            error = (got - wanted).abs().max() / wanted.abs().max()
            assert error < TOLERANCE, f"{part}: {error:.1e}"


def test_the_comparison_can_fail(folder):
    # The numbers tell a layer norm epsilon of 1e-3 from the right one.
    case = Case(folder, torch.float32)
    for module in case.model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-3
    output = case.model(**case.modality_inputs())
    ours = case.multilabel(output.logits, output.similarity)
    assert (ours - case.outputs["multilabel_plus_prior"]).abs() > 1e-3


@pytest.mark.parametrize("name", ["mosei_roberta", "m3ed_bert"])
def test_utterances_may_share_a_row(golden, name):
    """The authors encode a dialogue once per utterance; sharing the rows changes nothing."""
    case = Case(golden / name, torch.float32)
    inputs = case.modality_inputs()
    text = inputs["text"]
    shared = TokenizedDialogues(
        input_ids=text.input_ids[:4],
        attention_mask=text.attention_mask[:4],
        dialogue_index=torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 0, 0]),
        utterance_mask=text.utterance_mask[[0, 1, 2, 3, 3, 2, 1, 0, 0, 0]],
    )
    repeated = TokenizedDialogues(
        input_ids=text.input_ids[shared.dialogue_index],
        attention_mask=text.attention_mask[shared.dialogue_index],
        dialogue_index=torch.arange(10),
        utterance_mask=shared.utterance_mask,
    )
    inputs.pop("text")
    once = case.model(text=shared, **inputs).embeddings["text"]
    each = case.model(text=repeated, **inputs).embeddings["text"]
    torch.testing.assert_close(once, each, rtol=1e-6, atol=1e-6)


def test_names_of_parallel_training(folder):
    case = Case(folder, torch.float32)
    prefixed = {f"module.{name}": tensor for name, tensor in case.state.items()}
    plain = from_authors_state_dict(case.state)
    renamed = from_authors_state_dict(prefixed)
    assert set(plain) == set(renamed)
    assert all(torch.equal(plain[name], renamed[name]) for name in plain)
