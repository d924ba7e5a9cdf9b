"""ONNX graphs on onnxruntime: the only module that imports it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Device: TypeAlias = Literal["cpu", "cuda"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS_AND_WORSE = 3


class DeviceMissing(RuntimeError):
    """This machine, or its onnxruntime, cannot compute on the device asked for."""


class Value:
    """A tensor where the graph computes, so that one call's output can be the next one's input
    without a copy."""

    def __init__(self, value: Any) -> None:
        """Use `Session.value`, or take what `Session.run_values` gives."""
        self._value = value

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths."""
        return tuple(self._value.shape())

    def numpy(self) -> NDArray[Any]:
        """A copy of its numbers."""
        array: NDArray[Any] = self._value.numpy()
        return array


class Session:
    """One loaded graph. Thread-safe: callers may run it side by side."""

    def __init__(
        self,
        graph: Path,
        *,
        threads: int = 0,
        device: Device = "cpu",
        shapes_recur: bool = True,
    ) -> None:
        """Load `graph`, whose weights lie in the file beside it that it names.

        threads:      cores for one call; 0 for as many as the process may use
        shapes_recur: whether it is worth while to remember a memory plan for each shape of inputs
        Raises DeviceMissing if `device` cannot be used: nothing falls back in silence.
        """
        provider = _PROVIDERS[device]
        if provider not in onnxruntime.get_available_providers():
            raise DeviceMissing(f"onnxruntime {onnxruntime.__version__} has no {provider}")
        self._session = onnxruntime.InferenceSession(
            str(graph), sess_options=_options(threads, shapes_recur), providers=[provider]
        )
        self._device = device
        # The library falls back to the CPU when a provider's libraries don't load.
        if provider not in self._session.get_providers():
            raise DeviceMissing(f"{provider} cannot start here; its log says why")

    def run(
        self, inputs: Mapping[str, NDArray[np.int64]], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """The named outputs for named inputs, in the order asked for."""
        return list(self._session.run(list(outputs), dict(inputs), _run_options()))

    def value(self, array: NDArray[Any]) -> Value:
        """`array` as an input; on a CPU it shares the memory, which must then stay as it is."""
        return Value(onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device))

    def run_values(self, inputs: Mapping[str, Value], outputs: Sequence[str]) -> list[Value]:
        """As `run`, with tensors that stay where they are computed."""
        given = {name: value._value for name, value in inputs.items()}
        found = self._session.run_with_ort_values(list(outputs), given, _run_options())
        return list(map(Value, found))


def cores() -> int:
    """As many as this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _options(threads: int, shapes_recur: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = shapes_recur
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_AND_WORSE
    # Idle workers would spin on the cores that tokenising, search and gRPC share with them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _run_options() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    # Asked for the third layer, don't compute the sixth.
    options.only_execute_path_to_fetches = True
    return options
