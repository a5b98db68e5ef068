import pytest
import torch
from safetensors.torch import load_file

from univa.errors import UserError
from univa.va.lexicon import label_coordinates, similarity_matrix

LABELS = {
    "MOSEI": ["happy", "sad", "anger", "surprise", "disgust", "fear"],
    "M3ED": ["Happy", "Surprise", "Sad", "Disgust", "Anger", "Fear", "Neutral"],
}


@pytest.mark.parametrize("corpus", LABELS)
def test_matrix_is_the_authors(golden, corpus):
    expected = load_file(golden / "correlation_prior.safetensors")[f"{corpus}.matrix"]
    torch.testing.assert_close(similarity_matrix(LABELS[corpus]), expected, rtol=0, atol=1e-12)


def test_coordinates_span_the_axes():
    points = label_coordinates(["happy", "sad", "fear"])
    assert points.amin(0).tolist() == [-1, -1]
    assert points.amax(0).tolist() == [1, 1]


@pytest.mark.parametrize("labels", [["happy", "hapy"], ["happy"], []])
def test_bad_labels_are_refused(labels):
    with pytest.raises(UserError):
        label_coordinates(labels)
