import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoder.checkpoint import SHARDS, WEIGHTS, load_language_model, load_sentence_encoder
from encoder.config import UnsupportedModel
from encoder.manifest import ModelDamaged, ModelNotFound
from encoder.sentence import read_sentence_settings


def states(directory):
    with torch.inference_mode():
        return load_sentence_encoder(directory).encoder(torch.arange(200, 220)[None]).last


def test_a_checkpoint_in_shards_is_the_same_model(saved):
    directory = saved("bert")
    whole = states(directory)
    tensors = load_file(directory / WEIGHTS)
    names = sorted(tensors)
    shards = {"a.safetensors": names[:10], "b.safetensors": names[10:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    places = {name: file for file, part in shards.items() for name in part}
    (directory / SHARDS).write_text(json.dumps({"weight_map": places}))
    (directory / WEIGHTS).unlink()

    assert torch.equal(states(directory), whole)

    (directory / "b.safetensors").unlink()
    with pytest.raises(ModelDamaged, match=r"b\.safetensors is missing"):
        states(directory)


def test_old_names_of_norms_and_leftovers_of_other_heads_are_understood(saved):
    directory = saved("bert")
    before = states(directory)
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(directory / WEIGHTS).items()
    }
    old["bert.pooler.dense.weight"] = torch.zeros(32, 32)
    old["bert.embeddings.position_ids"] = torch.arange(128)
    old["cls.seq_relationship.bias"] = torch.zeros(2)
    save_file(old, directory / WEIGHTS)

    assert torch.equal(states(directory), before)


def test_a_half_precision_checkpoint_is_computed_in_single_precision(saved):
    directory = saved("modernbert")
    tensors = load_file(directory / WEIGHTS)
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, directory / WEIGHTS)

    assert states(directory).dtype is torch.float32


def test_a_pickle_is_refused_even_if_nothing_else_is_there(saved):
    directory = saved("bert")
    (directory / WEIGHTS).rename(directory / "pytorch_model.bin")

    with pytest.raises(UnsupportedModel, match="a pickle"):
        load_sentence_encoder(directory)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("embeddings.LayerNorm.bias"), "no weight 'embeddings.LayerNorm.bias'"),
        (lambda t: t.update({"adapter.weight": torch.zeros(2)}), "'adapter.weight' has no place"),
        (
            lambda t: t.update({"embeddings.LayerNorm.bias": torch.zeros(5)}),
            r"shape \(5,\); config.json promises \(32,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(saved, change, sentence):
    directory = saved("bert")
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS)

    with pytest.raises(UnsupportedModel, match=sentence):
        load_sentence_encoder(directory)


def test_damaged_files_are_named(saved):
    directory = saved("bert")
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ModelDamaged, match=r"model\.safetensors cannot be read"):
        load_sentence_encoder(directory)

    (directory / "config.json").write_text("{")
    with pytest.raises(ModelDamaged, match=r"config\.json makes no sense"):
        load_sentence_encoder(directory)


def test_an_empty_directory_is_no_model(tmp_path):
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        load_sentence_encoder(tmp_path)


def test_a_checkpoint_without_the_head_is_no_language_model(minilm_source):
    with pytest.raises(UnsupportedModel, match=r"no weight 'cls\.predictions"):
        load_language_model(minilm_source)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True}, "pooling_mode_lasttoken"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "mean and max"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": "mean", "include_prompt": False},
            "without the prompt",
        ),
        ("2_Dense/config.json", {"activation_function": "torch.nn.Tanh"}, "activation"),
        ("modules.json", [{"type": "a.b.CNN", "path": "x"}], "module CNN"),
    ],
)
def test_a_sentence_module_that_is_missing_here_is_refused(saved, file, content, sentence):
    directory = saved("modernbert", projected_width=24)
    (directory / file).write_text(json.dumps(content))

    with pytest.raises(UnsupportedModel, match=sentence):
        read_sentence_settings(directory)
