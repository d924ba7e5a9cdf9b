"""ONNX graphs written node by node, with their weights in one file that several graphs share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

# 20 is the first operator set with Gelu; a newer one would only ask for a newer onnxruntime.
OPSET = 20
IR_VERSION = 10
# onnxruntime maps the file into memory where tensors begin on pages, so that two graphs of one
# process share them.
_ALIGNMENT_BYTES = 4096
# Shapes and scalars stay inside the graph, where onnxruntime can fold them.
_INLINE_BYTES_MAX = 256

Array = NDArray[Any]


class WeightsFile:
    """One file of tensors by name; a name is written once, however many graphs ask for it."""

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self._stream = file.open("wb")
        self._places: dict[str, tuple[int, int]] = {}

    def put(self, name: str, array: Array) -> onnx.TensorProto:
        """The ONNX tensor `name`, whose values lie in this file."""
        if name not in self._places:
            self._stream.write(bytes(-self._stream.tell() % _ALIGNMENT_BYTES))
            content = np.ascontiguousarray(array).tobytes()
            self._places[name] = (self._stream.tell(), len(content))
            self._stream.write(content)
        offset, length = self._places[name]
        tensor = TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (("location", self.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def close(self) -> None:
        """Finish the file."""
        self._stream.close()


class GraphBuilder:
    """Nodes in the order they run. Every method that adds one answers with its output's name."""

    def __init__(self, name: str, weights: WeightsFile) -> None:
        self._name = name
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._values: dict[str, str] = {}  # by output

    def input(self, name: str, axes: Sequence[str | int], kind: type[np.generic] = np.int64) -> str:
        """An input, of 64-bit integers if nothing else is said, with named or fixed axes."""
        self._inputs.append(helper.make_tensor_value_info(name, _kind(kind), list(axes)))
        return name

    def output(
        self, name: str, value: str, axes: Sequence[str | int], kind: type[np.generic] = np.float32
    ) -> None:
        """Give `value` to callers, in fp32 if nothing else is said, as `name`."""
        self._values[name] = value
        self._outputs.append(helper.make_tensor_value_info(name, _kind(kind), list(axes)))

    def weight(self, name: str, array: Array) -> str:
        """A constant tensor; the same name is the same tensor in every graph."""
        if name not in self._tensors:
            inline = array.nbytes <= _INLINE_BYTES_MAX
            self._tensors[name] = (
                onnx.numpy_helper.from_array(array, name)
                if inline
                else self._weights.put(name, array)
            )
        return name

    def integers(self, *values: int) -> str:
        """A constant list of integers: a shape, axes, positions."""
        name = "integers_" + "_".join(str(value) for value in values)
        return self.weight(name, np.array(values, dtype=np.int64))

    def scalar(self, value: float) -> str:
        """A constant fp32 number."""
        return self.weight(f"scalar_{value!r}", np.array(value, dtype=np.float32))

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """One node with one output."""
        return self.split(operator, *inputs, outputs=1, domain=domain, **attributes)[0]

    def split(
        self, operator: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """One node with several outputs."""
        names = [f"{operator}_{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(
            helper.make_node(operator, list(inputs), names, domain=domain, **attributes)
        )
        return names

    def cast(self, value: str, to: type[np.generic]) -> str:
        """`value` in another type."""
        return self.add("Cast", value, to=_kind(to))

    def save(self, file: Path) -> None:
        """Check the graph and write it beside the weights file."""
        graph = helper.make_graph(
            self._named_nodes(),
            self._name,
            self._inputs,
            self._outputs,
            list(self._tensors.values()),
        )
        domains = sorted({node.domain for node in self._nodes})
        opsets = [helper.make_opsetid(domain, OPSET if not domain else 1) for domain in domains]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="polyseme"
        )
        onnx.save(model, file)
        onnx.checker.check_model(str(file))

    def _named_nodes(self) -> list[onnx.NodeProto]:
        """The nodes, with what is given to callers under its name there: renamed where it can be,
        as a node that only copies would copy all of it."""
        made = {name for node in self._nodes for name in node.output}
        names: dict[str, str] = {}
        copies = []
        for output, value in self._values.items():
            if value in made and value not in names:
                names[value] = output
            else:
                copies.append(helper.make_node("Identity", [names.get(value, value)], [output]))
        for node in self._nodes:
            for ends in (node.input, node.output):
                ends[:] = [names.get(name, name) for name in ends]
        return [*self._nodes, *copies]


def _kind(kind: type[np.generic]) -> int:
    """ONNX's number of a type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
