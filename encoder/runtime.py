"""A model directory in use: windows of token ids to vectors, on onnxruntime, without torch."""

import copy
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.config import EncoderConfig, Pooling, from_huggingface
from encoder.manifest import (
    Graph,
    Manifest,
    ModelDamaged,
    ModelNotFound,
    Precision,
    graph_path,
    graphs_of,
    read_manifest,
    verify,
    weights_path,
)
from encoder.sense_space import read_space, without_senses
from encoder.session import Device, DeviceMissing, Session, cores
from encoder.tokenizer import Tokenizer, Window
from encoder.vectors import finish, normalize, pool
from encoder.words import SubwordPooling

__all__ = [
    "DeviceMissing",
    "Encoder",
    "Fingerprint",
    "Graph",
    "GraphMissing",
    "ModelDamaged",
    "ModelNotFound",
    "Pooling",
    "Precision",
    "PrecisionMissing",
    "finish",
    "normalize",
    "pool",
]


class PrecisionMissing(ValueError):
    """There are no graphs of this precision for this device in the model directory."""


_EXPORT = "`polyseme-model export DIR`"
_LACKS = {
    Graph.ATTENTION: f"was exported without its attention: run {_EXPORT} once more",
    Graph.FILL: "has no masked-LM head: serve a model that has one (a checkpoint such as "
    f"BertForMaskedLM), or, if this one's checkpoint does, run {_EXPORT} once more",
}


class GraphMissing(ValueError):
    """The model directory has no graph that answers this question; `graph` says which it lacks."""

    def __init__(self, graph: Graph, model: str) -> None:
        super().__init__(f"model {model!r} {_LACKS.get(graph, f'lacks a graph: run {_EXPORT}')}")
        self.graph = graph
        self.model = model


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Everything that decides a vector's values: equal fingerprints, comparable vectors."""

    model: str
    weights_sha256: str
    tokenizer_sha256: str
    pooling: str
    prompt: str
    dimensions: int
    normalized: bool
    numeric_class: str

    @property
    def combined(self) -> str:
        """SHA-256 over all of it, in hexadecimal."""
        parts = [f"{field.name}={getattr(self, field.name)!r}" for field in fields(self)]
        return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()

    def differences(self, other: "Fingerprint") -> list[str]:
        """The names of what differs, in the order of the fields."""
        return [
            field.name
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


class Encoder:
    """A loaded model. Thread-safe; the GIL is released while the model runs.

    A window's result does not depend on its neighbours in a batch.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        precision: Precision,
        threads: int,
        device: Device,
    ) -> None:
        """Use `Encoder.load`, which also checks the files."""
        self.name = manifest.name
        self.width = manifest.width
        self.states_width = manifest.states_width
        self.layers = manifest.layers
        self.heads = _config(directory).heads
        self.tokens_max = manifest.tokens_max
        self.vocab_size = manifest.vocab_size
        self.pooling = manifest.pooling
        self.normalized = manifest.normalized
        self.prompts: Mapping[str, str] = dict(manifest.prompts)
        self.dense_share = manifest.dense_share
        self.dimensions_choices = manifest.dimensions_choices or (manifest.width,)
        self.word_layers = manifest.word_layers
        self.sense_space = read_space(directory, manifest)
        self.precision = precision
        self.graphs = graphs_of(manifest, precision)
        self.tokenizer = Tokenizer(directory / "tokenizer.json")
        self.weights_sha256 = manifest.files[weights_path(precision)].sha256
        self._pad_id = manifest.pad_id
        self._directory = directory
        self._threads = threads
        self._device = device
        self._sessions: dict[Graph, Session] = {}
        self._opening = threading.Lock()
        self._session(Graph.POOLED)

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        precision: Precision = Precision.INT8,
        threads: int = 0,
        device: Device = "cpu",
        senses: bool = True,
    ) -> "Encoder":
        """Check every file's SHA-256, then load the model.

        threads: cores for one call; 0 for as many as the process may use
        senses:  False to load it as if it had no senses.safetensors, whatever is there
        Raises ModelNotFound, ModelDamaged (names the file), PrecisionMissing, DeviceMissing.
        """
        if device == "cuda" and precision is Precision.INT8:
            raise PrecisionMissing("int8 graphs run on a CPU alone; a GPU wants fp16")
        manifest = read_manifest(directory)
        if not senses:
            manifest = without_senses(manifest)
        if precision not in manifest.precisions:
            present = ", ".join(manifest.precisions) or "none"
            raise PrecisionMissing(
                f"{directory} has no {precision} graphs (it has: {present}); write them with: "
                f"polyseme-model export {directory}"
            )
        verify(directory, manifest)
        return cls(directory, manifest, precision=precision, threads=threads, device=device)

    def twin(self, *, threads: int) -> "Encoder":
        """The same model for calls on another number of cores: its sessions are its own, opened
        when first asked for. Its files were checked already."""
        twin = copy.copy(self)
        twin._threads, twin._sessions, twin._opening = threads, {}, threading.Lock()
        return twin

    @property
    def cores(self) -> int:
        """That one call uses."""
        return self._threads or cores()

    def fingerprint(
        self,
        *,
        pooling: Pooling | None = None,
        prompt: str = "",
        dimensions: int | None = None,
        normalized: bool | None = None,
    ) -> Fingerprint:
        """The identity of vectors made this way; what is not given is the model's own choice."""
        return Fingerprint(
            model=self.name,
            weights_sha256=self.weights_sha256,
            tokenizer_sha256=self.tokenizer.sha256,
            pooling=str(pooling or self.pooling),
            prompt=prompt,
            dimensions=dimensions or self.width,
            normalized=self.normalized if normalized is None else normalized,
            numeric_class=str(self.precision),
        )

    def sense_fingerprint(self, subword_pooling: SubwordPooling) -> Fingerprint:
        """The identity of words' vectors in the model's sense space."""
        return Fingerprint(
            model=self.name,
            weights_sha256=self.weights_sha256,
            tokenizer_sha256=self.tokenizer.sha256,
            pooling=f"{self.sense_space.name}, sub-words by {subword_pooling}, "
            f"beside texts by {self.pooling}",
            prompt="",
            dimensions=self.sense_space.dimensions(self.states_width),
            normalized=True,
            numeric_class=str(self.precision),
        )

    def pooled(self, windows: Sequence[Window]) -> NDArray[np.float32]:
        """One vector a window, (windows, width): the model's own pooling, not normalised."""
        if not windows:
            return np.empty((0, self.width), dtype=np.float32)
        return self._session(Graph.POOLED).run(self._inputs(windows), ["pooled"])[0]

    def states(self, windows: Sequence[Window], layers: Sequence[int]) -> list[NDArray[np.float32]]:
        """For each window the token states of `layers`, (layers asked for, tokens, states_width).

        Layer 0 is the embeddings' output; the last is what pooling sees. Raises ValueError for
        a layer that the model does not have.
        """
        for layer in layers:
            if not 0 <= layer <= self.layers:
                raise ValueError(f"layer {layer} does not exist; this model has 0 to {self.layers}")
        if not windows or not layers:
            return [np.empty((0, len(w.ids), self.states_width), np.float32) for w in windows]
        wanted = sorted(set(layers))
        outputs = self._session(Graph.STATES).run(
            self._inputs(windows), [f"layer_{layer}" for layer in wanted]
        )
        by_layer = dict(zip(wanted, outputs, strict=True))
        return [
            np.stack([by_layer[layer][row, : len(window.ids)] for layer in layers])
            for row, window in enumerate(windows)
        ]

    def attention(self, window: Window, layers: Sequence[int]) -> NDArray[np.float32]:
        """How much each token attends to each, (layers asked for, heads, tokens, tokens).

        Row i of a head says how much of each token's value goes into token i's: it sums to one.
        The first layer is 1. Raises ValueError for a layer that the model does not have,
        GraphMissing for a directory that was exported without attention.
        """
        for layer in layers:
            if not 1 <= layer <= self.layers:
                raise ValueError(f"layer {layer} does not exist; this model has 1 to {self.layers}")
        session = self._session(Graph.ATTENTION)
        wanted = sorted(set(layers))
        names = [f"attention_{layer}" for layer in wanted]
        outputs = session.run(self._inputs([window]), names) if names else []
        by_layer = dict(zip(wanted, outputs, strict=True))
        shape = (0, self.heads, len(window.ids), len(window.ids))
        chosen = [by_layer[layer][0] for layer in layers]
        return np.stack(chosen) if chosen else np.empty(shape, np.float32)

    def fill(
        self, windows: Sequence[Window], positions: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float32]]:
        """For each window the logits of its `positions`, (positions, vocab_size).

        Raises ValueError for a position outside its window, GraphMissing for a model without a
        masked-LM head.
        """
        session = self._session(Graph.FILL)
        places = [
            (row, position)
            for row, (window, wanted) in enumerate(zip(windows, positions, strict=True))
            for position in wanted
            if _is_inside(position, window)
        ]
        if not places:
            return [np.empty((0, self.vocab_size), np.float32) for _ in windows]
        # Of a single row onnxruntime computes a product in another order than of several, and a
        # text's logits would depend on its company.
        asked = np.array(places if len(places) > 1 else places * 2, dtype=np.int64)
        inputs = {**self._inputs(windows), "places": asked}
        logits = session.run(inputs, ["logits"])[0][: len(places)]
        ends = np.cumsum([len(wanted) for wanted in positions])
        return np.split(logits, ends[:-1])

    def static(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of the word-embedding table, (ids, states_width): vectors without any context.

        Raises ValueError for an id outside the vocabulary.
        """
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ValueError(f"an id is outside the vocabulary of {self.vocab_size}")
        return self._session(Graph.STATIC).run({"ids": ids.astype(np.int64)}, ["static"])[0]

    def _session(self, graph: Graph) -> Session:
        """Graphs beside the first are opened when first asked for: many servers never ask."""
        if graph not in self.graphs:
            raise GraphMissing(graph, self.name)
        if (opened := self._sessions.get(graph)) is not None:
            return opened  # not behind somebody who opens another one
        with self._opening:
            if graph not in self._sessions:
                self._sessions[graph] = Session(
                    self._directory / graph_path(self.precision, graph),
                    threads=self._threads,
                    device=self._device,
                )
            return self._sessions[graph]

    def _inputs(self, windows: Sequence[Window]) -> dict[str, NDArray[np.int64]]:
        longest = max(len(window.ids) for window in windows)
        if longest > self.tokens_max:
            raise ValueError(f"a window has {longest} tokens; this model reads {self.tokens_max}")
        return padded(windows, self._pad_id)


def _config(directory: Path) -> EncoderConfig:
    return from_huggingface(json.loads((directory / "config.json").read_text("utf-8")))


def _is_inside(position: int, window: Window) -> bool:
    if not 0 <= position < len(window.ids):
        raise ValueError(f"position {position} is outside a window of {len(window.ids)} tokens")
    return True


def padded(windows: Sequence[Window], pad_id: int) -> dict[str, NDArray[np.int64]]:
    """The `ids` and `mask` (windows, tokens of the longest) that a graph reads."""
    ids = np.full((len(windows), max(len(w.ids) for w in windows)), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = window.ids
        mask[row, : len(window.ids)] = 1
    return {"ids": ids, "mask": mask}
