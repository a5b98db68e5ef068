import pytest
import torch

from univa.errors import UserError
from univa.models import from_authors_state_dict


def test_query_key_value_are_joined_in_order():
    prefix = "audio_utt_level_transformer.layer.3.transformer_self_attention.selfatt."
    parts = {
        f"{prefix}{part}.bias": torch.full((2,), value)
        for part, value in (("value", 3.0), ("query", 1.0), ("key", 2.0))
    }
    (joint,) = from_authors_state_dict(parts).items()
    assert joint[0] == "encoders.audio.layers.3.attention.query_key_value.bias"
    assert joint[1].tolist() == [1, 1, 2, 2, 3, 3]

    del parts[f"{prefix}key.bias"]
    with pytest.raises(UserError, match=r"the key that goes into 'encoders\.audio\.layers\.3\."):
        from_authors_state_dict(parts)


def test_what_the_model_does_not_use_is_left_out():
    state = {
        "text_plm.pooler.dense.weight": torch.zeros(2, 2),
        "text_plm.embeddings.position_ids": torch.arange(4)[None],
        "fc.0.bias": torch.ones(3),
    }
    assert set(from_authors_state_dict(state)) == {"classifier.bias"}


@pytest.mark.parametrize("name", ["fc.1.bias", "audio_linear.0.scale", "optimizer", "text_linear"])
def test_foreign_names_are_refused(name):
    with pytest.raises(UserError, match=f"{name!r} is not a parameter of the authors' model"):
        from_authors_state_dict({name: torch.zeros(1)})
