"""One embedding engine in a process of its own: run by bench/engine.py, in whichever environment
has the engine. It imports nothing of the project but for the engines named polyseme.

    python bench/engine_worker.py ENGINE PATHS         PATHS: what engine.py's `prepared` gives

Asked with a JSON list of texts, it answers {"wall_s", "cpu_s", "file"}, the vectors of length 1
being in the .npy file.
"""

# For any environment, which has some of the engines, and for old Pythons.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, B905, PLC0415
import json
import os
import queue
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from answering import serve, timed

BATCH = 32
TOKENS_MAX = 256
CORES = len(os.sched_getaffinity(0))


def main():
    serve({name: partial(started, load) for name, load in ENGINES.items()})


def started(load, paths):
    embed, version = load(json.loads(paths))
    file = Path(tempfile.mkdtemp(prefix="polyseme-engine-")) / "vectors.npy"

    def answer(texts):
        vectors, spent = timed(lambda: np.asarray(embed(texts), dtype=np.float32))
        np.save(file, unit(vectors))
        return {**spent, "file": str(file)}

    return answer, version


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tokenizer_of(paths):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{paths['model']}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS_MAX)
    return tokenizer


def sorted_batches(paths, run, threads=1):
    """What one writes by hand round a graph that pools: tokenize, sort, batches of BATCH, pad;
    in several threads if told."""
    tokenizer = tokenizer_of(paths)
    pool = ThreadPoolExecutor(threads)

    def embed(texts):
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

        def compute(rows):
            block = np.zeros((len(rows), len(ids[rows[0]])), dtype=np.int64)
            mask = np.zeros_like(block)
            for line, row in enumerate(rows):
                block[line, : len(ids[row])] = ids[row]
                mask[line, : len(ids[row])] = 1
            return run(block, mask)

        found = [None] * len(ids)
        for rows, vectors in zip(batches, pool.map(compute, batches)):
            for row, vector in zip(rows, vectors):
                found[row] = vector
        return np.stack(found)

    return embed


def polyseme(precision):
    def load(paths):
        from encoder.engine import Engine
        from encoder.runtime import Encoder, Precision

        engine = Engine(Encoder.load(Path(paths["model"]), precision=Precision(precision)))

        def embed(texts):
            return engine.embed(texts, tokens_max=TOKENS_MAX)

        return embed, ""

    return load


def runtime(graph, threads=1):
    """threads: that compute a batch each, on a core each; 1: the library's defaults"""

    def load(paths):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if threads > 1:
            options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            paths[graph], options, providers=["CPUExecutionProvider"]
        )

        def run(ids, mask):
            return session.run(["pooled"], {"ids": ids, "mask": mask})[0]

        return sorted_batches(paths, run, threads), onnxruntime.__version__

    return load


def openvino(hint, *, int8=False, streams=1):
    """hint: what is computed in where it is not int8; streams: batches side by side"""

    def load(paths):
        import openvino

        core = openvino.Core()
        model = quantized(core, paths) if int8 else core.read_model(paths["fp32"])
        settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if streams > 1:
            settings |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(streams)}
        compiled = core.compile_model(model, "CPU", settings)
        free = queue.SimpleQueue()
        for _ in range(streams):
            free.put(compiled.create_infer_request())

        def run(ids, mask):
            request = free.get()
            try:
                return request.infer({"ids": ids, "mask": mask})["pooled"].copy()
            finally:
                free.put(request)

        return sorted_batches(paths, run, streams), openvino.__version__.split("-")[0]

    return load


def quantized(core, paths):
    """Static int8 as OpenVINO's own tool makes it, calibrated on the texts that are measured."""
    if Path(paths["openvino"]).exists():
        return core.read_model(paths["openvino"])
    import nncf
    import openvino

    tokenizer = tokenizer_of(paths)
    texts = json.loads(Path(paths["calibration"]).read_text())

    def sample(text):
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        return {"ids": ids, "mask": np.ones_like(ids)}

    model = nncf.quantize(
        core.read_model(paths["fp32"]), nncf.Dataset(texts, sample),
        model_type=nncf.ModelType.TRANSFORMER,
    )  # fmt: skip
    openvino.save_model(model, paths["openvino"], compress_to_fp16=False)
    return model


def sentence_transformers(dtype):
    def load(paths):
        import sentence_transformers
        import torch

        model = sentence_transformers.SentenceTransformer(
            paths["model"], device="cpu", local_files_only=True,
            model_kwargs={"dtype": getattr(torch, dtype)},
        )  # fmt: skip
        model.max_seq_length = TOKENS_MAX

        def embed(texts):
            vectors = model.encode(texts, batch_size=BATCH, convert_to_tensor=True)
            return vectors.float().numpy()

        return embed, sentence_transformers.__version__

    return load


def fastembed(paths):
    import fastembed
    from fastembed.common.model_description import ModelSource, PoolingType

    fastembed.TextEmbedding.add_custom_model(
        model="bench/minilm", pooling=PoolingType.MEAN, normalization=True, dim=384,
        sources=ModelSource(hf="bench/minilm"), model_file="model.onnx",
    )  # fmt: skip
    model = fastembed.TextEmbedding("bench/minilm", specific_model_path=paths["plain"])

    def embed(texts):
        return np.stack(list(model.embed(texts, batch_size=BATCH)))

    return embed, fastembed.__version__


def infinity(paths):
    import asyncio

    import infinity_emb
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    loop = asyncio.new_event_loop()
    engine = AsyncEmbeddingEngine.from_args(
        EngineArgs(model_name_or_path=paths["model"], engine="torch", device="cpu", dtype="float32",
                   bettertransformer=False, batch_size=BATCH)
    )  # fmt: skip
    loop.run_until_complete(engine.astart())

    def embed(texts):
        return np.stack(loop.run_until_complete(engine.embed(sentences=texts))[0])

    return embed, infinity_emb.__version__


ENGINES = {
    "polyseme int8": polyseme("int8"),
    "polyseme fp32": polyseme("fp32"),
    "onnxruntime int8 dynamic": runtime("dynamic"),
    "onnxruntime int8 dynamic, a core a batch": runtime("dynamic", CORES),
    "onnxruntime fp32": runtime("fp32"),
    "OpenVINO fp32": openvino("f32"),
    "OpenVINO bf16": openvino("bf16"),
    "OpenVINO int8 static": openvino("f32", int8=True),
    "OpenVINO int8 static, a core a batch": openvino("f32", int8=True, streams=CORES),
    "OpenVINO int8 static, bf16": openvino("bf16", int8=True),
    "sentence-transformers fp32": sentence_transformers("float32"),
    "sentence-transformers bf16": sentence_transformers("bfloat16"),
    "FastEmbed": fastembed,
    "infinity": infinity,
}

if __name__ == "__main__":
    main()
