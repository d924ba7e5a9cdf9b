"""The translator: its greedy translations, and its folder in a model directory."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from encoder.config import EncoderConfig
from encoder.manifest import ModelDamaged, ModelNotFound
from encoder.translation_config import AlignmentHeads, TranslationConfig, read_translation_config
from encoder.translator import (
    Translator,
    begin_translator,
    greedy,
    load_translator,
    save_translator,
)
from tests.encoder.conftest import SHAPES

DECODER = EncoderConfig(
    vocab_size=SHAPES["modernbert"].vocab_size, width=32, layers=2, heads=4, inner_width=48,
    tokens_max=64, initializer_range=0.2,
)  # fmt: skip
PAIRS = (("en", "de"), ("de", "en"))


def config_with(**changes):
    choices = {
        "encoder": SHAPES["modernbert"],
        "decoder": DECODER,
        "begin_ids": {"en": 5, "de": 6},
        "end_id": 3,
        "pairs": PAIRS,
    }
    return TranslationConfig(**{**choices, **changes})


def batch():
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(9) < torch.tensor([9, 4, 6])[:, None]
    ids = torch.randint(200, 30_000, (3, 9), generator=generator).masked_fill(~mask, 0)
    return ids, mask


def randomised(model):
    torch.manual_seed(9)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not model.config.is_shared(name):
                value.add_(torch.randn_like(value) * 0.1)
    return model.eval()


def test_greedy_writes_the_likeliest_token_each_time():
    torch.manual_seed(2)
    model = Translator(config_with()).eval()
    with torch.no_grad():
        model.decoder.bias[3] = 4.0  # so that one text ends by itself
    source, mask = batch()

    written = greedy(model, source, mask, [5, 6, 6], tokens_max=8)

    for row, (begin, text) in enumerate(zip([5, 6, 6], written, strict=True)):
        target, total = [begin], 0.0
        while len(target) <= 8 and target[-1] != 3:
            with torch.inference_mode():  # the whole text again for each token, alone, no cache
                alone = source[row : row + 1, mask[row]]
                logits = model(alone, torch.ones_like(alone).bool(), torch.tensor([target]))
                logits[..., DECODER.pad_id] = -torch.inf
                best, token = logits[0, -1].log_softmax(dim=-1).max(dim=-1)
            target.append(int(token))
            total += float(best)
        assert text.ids == [token for token in target[1:] if token != 3]
        assert text.finished == (target[-1] == 3)
        assert text.log_probability == pytest.approx(total, abs=1e-4)
    assert [text.finished for text in written] == [False, False, True]


@pytest.mark.parametrize("shared_layers", [0, 2, 4])
@pytest.mark.parametrize("tied_tables", [False, True])
def test_a_saved_translator_answers_as_before_and_stores_nothing_twice(
    saved, shared_layers, tied_tables
):
    directory = saved("modernbert")
    config = config_with(
        shared_layers=shared_layers,
        tied_tables=tied_tables,
        alignment=AlignmentHeads(layer=1, heads=(0, 2)),
        source_ids={"de": 7},
    )
    model = randomised(begin_translator(config, directory))

    save_translator(directory, model)
    loaded = load_translator(directory)

    source, mask = batch()
    target = torch.randint(1, 99, (3, 5))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(source, mask, target), model(source, mask, target))
    assert loaded.config == config
    stored = load_file(directory / "translation" / "model.safetensors")
    assert ("encoder.embeddings.word.weight" in stored) == (shared_layers == 0)
    assert ("encoder.layers.1.attention.output.weight" in stored) == (shared_layers < 2)
    assert ("encoder.layers.3.attention.output.weight" in stored) == (shared_layers < 4)
    assert ("decoder.embeddings.word.weight" in stored) == (not tied_tables)


def test_a_translator_in_half_precision_is_computed_in_single_precision(saved):
    directory = saved("modernbert")
    model = randomised(begin_translator(config_with(), directory))
    save_translator(directory, model, half=True)

    stored = load_file(directory / "translation/model.safetensors")
    loaded = load_translator(directory)

    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_translator_is_never_overwritten(saved):
    directory = saved("modernbert")
    model = begin_translator(config_with(), directory)
    save_translator(directory, model)

    with pytest.raises(FileExistsError, match="never overwritten"):
        save_translator(directory, model)


def test_a_folder_without_a_translator_or_with_a_damaged_one_is_refused(saved, tmp_path):
    with pytest.raises(ModelNotFound, match="holds no translation model"):
        load_translator(tmp_path)
    directory = saved("modernbert")
    save_translator(directory, begin_translator(config_with(), directory))
    file = directory / "translation" / "config.json"
    file.write_text(file.read_text().replace('"end_id": 3', '"end_id": -3'))

    with pytest.raises(ModelDamaged, match="token -3 is outside the vocabulary"):
        read_translation_config(directory / "translation")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": replace(DECODER, width=16)}, "encoder is 32 wide, the decoder 16"),
        ({"shared_layers": 5}, "shared_layers 5 of 4 layers"),
        ({"pairs": (("en", "fr"),)}, "begin_ids has no token for 'fr'"),
        ({"pairs": ()}, "at least one"),
        ({"alignment": AlignmentHeads(layer=2)}, "alignment layer 2 of 2 layers"),
        ({"alignment": AlignmentHeads(heads=(4,))}, "alignment head 4 of 4 heads"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config_with(**changes)
