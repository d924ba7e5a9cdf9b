"""How fast are translations beside transformers and CTranslate2?

    pip install ctranslate2
    python bench/translation.py [--vocabulary 16000] [--width 384] [--layers 6 2]

A Marian model of random weights, one for all: transformers' `generate` on it, CTranslate2's
conversion of it, and our graphs of it. All read the same sources of Multi30k's lengths and write as
many tokens as are asked for, whatever the weights say: so the work is equal, and its quality is
nobody's. Engines take turns, round after round, on the same cores. Read ratios, not absolutes.

Our engine runs a batch on each core, as the server does; CTranslate2 with as many workers, and once
with one that has all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import MarianConfig, MarianMTModel

from encoder.beam import BeamPlan, search
from encoder.decoding import SessionStepper, Sources, past_names
from encoder.manifest import Precision
from encoder.marian import load_marian
from encoder.sample import sample_texts
from encoder.session import Session
from encoder.translation_config import FOLDER, SOURCE_TOKENIZER, read_translation_config
from encoder.translation_export import export_translator
from encoder.translation_manifest import TranslationGraph, translation_graph_path
from encoder.translator import save_translator

CORES = len(os.sched_getaffinity(0))
Ids = list[list[int]]
Engine = Callable[[list[Ids], int, int], None]  # batches of sources, beams, tokens to write
NEVER = -1  # an end token that is none


def main() -> None:
    """Run all of it and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, nargs=2, default=(6, 2), help="encoder, decoder")
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=(1, 32))
    parser.add_argument("--beams", type=int, nargs="+", default=(1, 4))
    parser.add_argument("--tokens", type=int, default=20, help="tokens to write of each sentence")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", nargs="*", default=(), help="engines to leave out")
    options = parser.parse_args()
    torch.set_num_threads(CORES)
    with tempfile.TemporaryDirectory() as folder:
        engines = all_engines(Path(folder), options)
        sources = random_sources(options.sentences, options.vocabulary)
        print(f"{platform.processor() or platform.machine()}, {CORES} cores; {vars(options)}")
        for batch in options.batch:
            for beams in options.beams:
                report(engines, batched(sources, batch), batch, beams, options)


def report(
    engines: dict[str, Engine], batches: list[Ids], batch: int, beams: int, options: Any
) -> None:
    """One line an engine: target tokens a second, the median round and the spread, sentences a
    second; and tokens a second of CPU, which says more on a machine that others use too. Then ours
    beside CTranslate2 at its best, of each kind of number."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    busy: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine(batches[:1], beams, options.tokens)  # warm
    for _ in range(options.rounds):
        for name, engine in engines.items():
            started, worked = time.perf_counter(), time.process_time()
            engine(batches, beams, options.tokens)
            seconds[name].append(time.perf_counter() - started)
            busy[name].append(time.process_time() - worked)
    sentences = sum(map(len, batches))
    tokens = sentences * options.tokens
    first = statistics.median(seconds[next(iter(seconds))])
    print(f"\nbatches of {batch}, beam {beams}: target tokens/s")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(
            f"  {name:<28} {tokens / median:>9,.0f}  ({tokens / max(taken):,.0f} to "
            f"{tokens / min(taken):,.0f})  {first / median:.1f} x; {sentences / median:,.1f} "
            f"sentences/s; {tokens / statistics.median(busy[name]):,.0f} a second of CPU"
        )
    for ours, theirs in (("polyseme fp32", "float32"), ("polyseme int8", "int8")):
        names = [name for name in seconds if name.startswith(f"ctranslate2 {theirs}")]
        if ours in seconds and names:
            best = min(statistics.median(seconds[name]) for name in names)
            ratio = best / statistics.median(seconds[ours])
            print(f"  {ours}: {ratio:.2f} times CTranslate2 {theirs}")


def all_engines(folder: Path, options: Any) -> dict[str, Engine]:
    """By name, transformers first: the others are compared with it."""
    model = random_marian(options)
    model.save_pretrained(folder / "marian")
    (folder / "marian" / "vocab.json").write_text(json.dumps(vocabulary_of(options.vocabulary)))
    engines: dict[str, Engine] = {"transformers fp32": transformers_engine(model)}
    engines |= our_engines(folder)
    engines |= ctranslate2_engines(folder)
    return {
        name: engine
        for name, engine in engines.items()
        if not any(name.startswith(left_out) for left_out in options.without)
    }


def random_marian(options: Any) -> Any:
    """Of the proportions of the OPUS-MT models. (transformers' types do not fit its models.)"""
    torch.manual_seed(1)
    encoder_layers, decoder_layers = options.layers
    heads = options.width // 64
    config = MarianConfig(
        vocab_size=options.vocabulary,
        d_model=options.width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * options.width,
        decoder_ffn_dim=4 * options.width,
        max_position_embeddings=512,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=options.vocabulary - 1,
        decoder_start_token_id=options.vocabulary - 1,
        eos_token_id=0,
        forced_eos_token_id=None,
        bos_token_id=None,
    )
    model: Any = MarianMTModel(config)
    return model.eval()


def vocabulary_of(size: int) -> dict[str, int]:
    """Tokens called by their numbers; the first is the end, the last the padding."""
    named = {0: "</s>", size - 1: "<pad>"}
    return {named.get(number, f"t{number}"): number for number in range(size)}


def random_sources(count: int, vocabulary: int) -> Ids:
    """Ids ending in the end token, as long as Multi30k's sentences are: 14 tokens, 6 to 30."""
    rng = np.random.default_rng(2)
    lengths = rng.normal(14, 4, size=count).clip(6, 30).astype(int)
    return [[*rng.integers(4, vocabulary - 2, size=n).tolist(), 0] for n in lengths]


def batched(sources: Ids, size: int) -> list[Ids]:
    """Sentences of like length together, as everybody does."""
    order = sorted(sources, key=len)
    return [order[i : i + size] for i in range(0, len(order), size)]


def transformers_engine(model: Any) -> Engine:
    """`generate`, with all cores."""
    pad = model.config.pad_token_id

    @torch.inference_mode()
    def translate(batches: list[Ids], beams: int, tokens: int) -> None:
        for batch in batches:
            longest = max(map(len, batch))
            ids = torch.tensor([row + [pad] * (longest - len(row)) for row in batch])
            model.generate(
                input_ids=ids,
                attention_mask=torch.ne(ids, pad).long(),
                num_beams=beams,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
            )

    return translate


def our_engines(folder: Path) -> dict[str, Engine]:
    """Our graphs of the same weights."""
    directory = folder / "ours"
    save_translator(directory, load_marian(folder / "marian", [("en", "de")]))
    byte_tokenizer().save(str(directory / FOLDER / SOURCE_TOKENIZER))
    export_translator(directory, precisions=[Precision.FP32, Precision.INT8])
    return {
        f"polyseme {precision}": our_engine(directory / FOLDER, precision)
        for precision in (Precision.FP32, Precision.INT8)
    }


def our_engine(folder: Path, precision: Precision) -> Engine:
    """A batch a core, as the server does it."""
    encode, step = (
        Session(
            folder / translation_graph_path(precision, graph),
            threads=1 if CORES > 1 else 0,
            shapes_recur=False,
        )
        for graph in TranslationGraph
    )
    pool = ThreadPoolExecutor(CORES)
    config = read_translation_config(folder)
    begin = pad = config.decoder.pad_id  # Marian begins with its padding
    names = past_names("source", range(config.decoder.layers))

    def one(batch: Ids, beams: int, tokens: int) -> None:
        longest = max(map(len, batch))
        ids = np.array([row + [pad] * (longest - len(row)) for row in batch])
        mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        sources = Sources.of(encode.run({"ids": ids, "mask": mask}, names), mask)
        stepper = SessionStepper(step, sources, choices=2 * beams, attention=False)
        search(
            stepper,
            [begin] * len(batch),
            end_id=NEVER,
            tokens_max=[tokens] * len(batch),
            plan=BeamPlan(beams=beams),
        )

    def translate(batches: list[Ids], beams: int, tokens: int) -> None:
        list(pool.map(lambda batch: one(batch, beams, tokens), batches))

    return translate


def byte_tokenizer() -> Tokenizer:
    """Something for the export to read its sample texts with; the ids are all that counts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(sample_texts("calibration"), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 0)]
    )
    return tokenizer


def ctranslate2_engines(folder: Path) -> dict[str, Engine]:
    """CTranslate2's conversion of the same weights; none where it is not installed."""
    try:
        # Not one of our dependencies.
        import ctranslate2  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
        from ctranslate2.converters.transformers import (  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
            TransformersConverter,
        )
    except ImportError:
        print("ctranslate2 is not installed: it is left out")
        return {}

    class Nameless:
        """In place of a tokenizer: tokens are called by their numbers."""

        def get_vocab(self) -> dict[str, int]:
            vocabulary: dict[str, int] = json.loads((folder / "marian/vocab.json").read_text())
            return vocabulary

        bos_token, eos_token, unk_token = "<pad>", "</s>", "t1"
        additional_special_tokens: Sequence[str] = ()

    class Converter(TransformersConverter):  # type: ignore[misc]  # it has no types
        def load_tokenizer(self, *args: object, **kwargs: object) -> Nameless:
            return Nameless()

    converter = Converter(str(folder / "marian"))
    out = folder / "ctranslate2"
    converter.convert(str(out), quantization="float32")
    settings = [("float32", CORES, 1), ("int8", CORES, 1), ("int8", 1, CORES)]
    return {
        f"ctranslate2 {kind}, {workers} x {threads}": ctranslate2_engine(
            ctranslate2.Translator(
                str(out), compute_type=kind, inter_threads=workers, intra_threads=threads
            )
        )
        for kind, workers, threads in settings
    }


def ctranslate2_engine(translator: Any) -> Engine:
    """All batches at once; its workers take them."""

    def named(batch: Ids) -> list[list[str]]:
        return [["</s>" if token == 0 else f"t{token}" for token in row] for row in batch]

    def translate(batches: list[Ids], beams: int, tokens: int) -> None:
        sources = [row for batch in batches for row in named(batch)]
        translator.translate_batch(
            sources,
            max_batch_size=len(batches[0]),
            beam_size=beams,
            min_decoding_length=tokens,
            max_decoding_length=tokens,
        )

    return translate


if __name__ == "__main__":
    main()
