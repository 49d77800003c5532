"""Runs an .onnx graph in torch: any batch size, any device, fp32, fp16 or bf16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from condprep.annotators.openpose.dwpose.onnx_file import Graph, Node, read_graph
from condprep.annotators.openpose.dwpose.operations import OPERATIONS
from condprep.errors import WeightsError

MAX_TENSOR = 64 << 20  # values in one activation of one picture; YOLOX-l needs 7 M
MAX_ACTIVATIONS = 4 << 30  # values in all activations of one picture; YOLOX-l needs 300 M


class Network(nn.Module):
    """A network with one picture as its input.

    input: (C, H, W); outputs: the shape of each output without the batch. Raises WeightsError for a damaged file, an
    unknown operation, and a network of other shapes.
    """

    def __init__(self, path: Path, *, input: tuple[int, ...], outputs: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        graph = read_graph(path)
        try:
            self._plan(graph)
            self._rehearse(input, outputs)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
        except Exception as error:  # as in read_graph: an untrusted graph can be wrong in any way
            raise WeightsError(f"{path}: not a sound network ({type(error).__name__}: {error})") from error

    def _plan(self, graph: Graph) -> None:
        self.nodes = _needed(graph)
        self.input, self.outputs = graph.input, graph.outputs
        self.whole: dict[str, Tensor] = {}  # constants that say shapes, and stay on the CPU
        self.weights: dict[str, str] = {}  # a constant's name in the file -> the buffer's
        scales = {name for node in self.nodes if node.op in ("Resize", "Upsample") for name in node.inputs[1:]}
        for name in {name: None for node in self.nodes for name in node.inputs if name in graph.constants}:
            self._keep(name, torch.from_numpy(graph.constants[name]), name in scales)
        self.frees = _last_uses(self.nodes, graph.outputs)

    def _keep(self, name: str, constant: Tensor, here: bool) -> None:
        if here or not constant.is_floating_point():
            self.whole[name] = constant
            return
        self.weights[name] = f"weight_{len(self.weights)}"
        self.register_buffer(self.weights[name], constant)

    @property
    def dtype(self) -> torch.dtype:
        """In which the network computes."""
        return next(self.buffers()).dtype

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> the outputs, in the file's order."""
        return self._run(x, {name: self.get_buffer(buffer) for name, buffer in self.weights.items()}, _ignore)

    def _run(self, x: Tensor, weights: Mapping[str, Tensor], seen: Callable[[Tensor], None]) -> list[Tensor]:
        values: dict[str, Tensor | None] = {"": None, **self.whole, **weights, self.input: x}
        for node, done in zip(self.nodes, self.frees, strict=True):
            made = OPERATIONS[node.op](node.attributes, *(values[name] for name in node.inputs))
            made = [made] if isinstance(made, Tensor) else made
            for tensor in made:
                seen(tensor)
            values.update(zip(node.outputs, made, strict=True))
            for name in done:
                del values[name]
        return [value for value in (values[name] for name in self.outputs) if value is not None]

    def _rehearse(self, input: tuple[int, ...], outputs: Sequence[tuple[int, ...]]) -> None:
        """Run without memory, on one picture and on two: shapes are as declared, and what a picture needs is bounded."""
        weights = {name: self.get_buffer(buffer).to("meta") for name, buffer in self.weights.items()}
        for pictures in (1, 2):
            made = self._run(torch.empty(pictures, *input, device="meta"), weights, _Bound(pictures))
            shapes = [tuple(one.shape) for one in made]
            if shapes != [(pictures, *shape) for shape in outputs]:
                raise WeightsError(f"another network: {pictures} x {input} give {shapes}, and not {list(outputs)} each")


def _ignore(made: Tensor) -> None:
    """Of a real run, whose memory the rehearsal has bounded."""


class _Bound:
    """Counts the values of activations. Raises WeightsError beyond the limits."""

    def __init__(self, pictures: int) -> None:
        self.pictures, self.total = pictures, 0

    def __call__(self, made: Tensor) -> None:
        size = made.numel() // self.pictures
        self.total += size
        if size > MAX_TENSOR or self.total > MAX_ACTIVATIONS:
            raise WeightsError(
                f"activations of more than {MAX_TENSOR} values, or {MAX_ACTIVATIONS} together, a picture"
            )


def _needed(graph: Graph) -> list[Node]:
    """What the outputs need, in order. Raises WeightsError for an operation that is not known."""
    wanted, nodes = set(graph.outputs), list[Node]()
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            nodes.append(node)
    unknown = sorted({node.op for node in nodes} - OPERATIONS.keys())
    if unknown:
        raise WeightsError(f"unknown operation {unknown[0]}; known: {', '.join(OPERATIONS)}")
    return nodes[::-1]


def _last_uses(nodes: Sequence[Node], outputs: Sequence[str]) -> list[list[str]]:
    """After which node each activation is of no further use, so that its memory is free."""
    made = {name: at for at, node in enumerate(nodes) for name in node.outputs}
    last = made | {name: at for at, node in enumerate(nodes) for name in node.inputs if name in made}
    return [[name for name, at in last.items() if at == now and name not in outputs] for now in range(len(nodes))]
