import dataclasses

import pytest

from encoder.config import EncoderConfig, UnsupportedModel, from_huggingface, to_huggingface

BERT = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
MODERNBERT = BERT | {"model_type": "modernbert", "pad_token_id": 0}


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "modernbert"])
def test_a_shape_survives_the_way_to_hugging_face_and_back(model_type):
    shape = EncoderConfig(model_type=model_type, vocab_size=100, width=48, heads=4, pad_id=1)
    if model_type == "modernbert":
        shape = dataclasses.replace(shape, local_layers=(1, 2, 4), rope_theta_local=5_000.0)

    again = from_huggingface(to_huggingface(shape, masked_lm=True))

    assert again == shape


def test_roberta_counts_positions_from_behind_the_padding_id():
    shape = from_huggingface(BERT | {"model_type": "roberta", "pad_token_id": 1})

    assert shape.position_offset == 2
    assert shape.tokens_max == 62


def test_every_third_layer_is_global_where_an_old_config_says_so():
    shape = from_huggingface(MODERNBERT | {"num_hidden_layers": 5, "global_rope_theta": 80_000.0})

    assert shape.local_layers == (1, 2, 4)
    assert shape.rope_theta_global == 80_000.0


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (BERT | {"model_type": "t5"}, "'t5' is not supported"),
        ({}, "None is not supported"),
        (BERT | {"position_embedding_type": "relative_key"}, "relative position embeddings"),
        (BERT | {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (BERT | {"is_decoder": True}, "a decoder"),
        (BERT | {"add_cross_attention": True}, "cross attention"),
        (BERT | {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"model_type": "bert", "hidden_size": 8}, "no 'vocab_size'"),
        (MODERNBERT | {"norm_bias": True}, "norm_bias is True"),
        (MODERNBERT | {"layer_types": ["linear_attention"] * 2}, "linear_attention"),
        (MODERNBERT | {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "'yarn'"),
    ],
)
def test_what_is_missing_is_refused_with_a_sentence_that_says_so(config, sentence):
    with pytest.raises(UnsupportedModel, match=sentence):
        from_huggingface(config)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 50}, "width 50 is not divisible by heads 6"),
        ({"layers": 0}, "layers is 0"),
        ({"pad_id": 100}, "pad_id 100"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"width": 30, "heads": 6}, "width 5 is odd"),
        ({"local_layers": (6,)}, "local_layers names 6"),
        ({"local_window_tokens": 1}, "local_window_tokens 1"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_with_its_numbers(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        EncoderConfig(**{"vocab_size": 100, "width": 48, **change})
