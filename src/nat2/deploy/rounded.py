"""A network as it computes in 8 bits, simulated in torch: what is rounded, to which ranges, and how weights make up
for it.

Weights are rounded to signed integers with a scale for each output channel, activations to unsigned ones with a scale
and a zero point for each tensor. Gates (hard sigmoids), logits, and the few activations that rounding harms most stay
in floating point.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from nat2.deploy.onnx_graph import INPUT, OUTPUT

LEVELS = 255  # steps between the ends of a range
LARGEST = 127  # of a rounded weight
JUDGED_BY = 128
"""Images by which it is decided what rounding does."""
_SAMPLE = 2**15  # values of a tensor, from each batch, by which its range is chosen
_SHARES = 25  # ends that are tried for each end of a range
_LEAST = 0.3  # of the largest value, the nearest end that is tried
_HARM = 1e-3  # of the squared logits, above which a tensor is not rounded
_SLIGHT = 1e-4  # of the squared logits, above which a range is chosen by the logits
_REFINED = 12  # ranges at most; the worst few do most of the harm
_NARROWED = (0.75, 0.5, 0.35, 0.2)  # of an end of a range, the ends that are tried for it
_FLAT = 3.0  # beyond +-3 a hard sigmoid is constant
WEIGHTED = ("Conv", "Gemm", "MatMul")
_SHARING = ("MaxPool", "Flatten")  # whose results are among their inputs


@dataclass(frozen=True)
class Span:
    """A range of values that is divided into 255 equal steps; it holds 0, which is exact."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """Width of a step."""
        return max(self.high - self.low, 1e-8) / LEVELS

    @property
    def zero(self) -> int:
        """The integer that stands for 0."""
        return min(LEVELS, max(0, round(-self.low / self.scale)))

    def rounded(self, values: Tensor) -> Tensor:
        """Values as they are after rounding; gradients pass where nothing is clipped (straight-through)."""
        return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero, 0, LEVELS)


def axis_of(operator: str) -> int:
    """The axis of the output channels of a weight."""
    return 1 if operator == "MatMul" else 0


def scales_of(weight: Tensor, axis: int) -> Tensor:
    """Scale of each channel: the largest weight becomes 127."""
    largest = weight.detach().abs().movedim(axis, 0).flatten(1).amax(1)
    return largest.clamp(min=1e-8) / LARGEST


class RoundedGraph(nn.Module):
    """An ONNX graph of ours in torch, its weights as parameters."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Read the graph; nothing is rounded before `calibrate`."""
        super().__init__()
        self.nodes = list(graph.node)
        self._options = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in self.nodes]
        stored = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
        self.weights = nn.ParameterDict({_key(name): nn.Parameter(values) for name, values in stored.items()})
        self.users: dict[str, list[str]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.users[name].append(node.op_type)
        last = {name: number for number, node in enumerate(self.nodes) for name in node.input}
        self._spent = [[name for name in node.input if last[name] == n] for n, node in enumerate(self.nodes)]
        self.spans: dict[str, Span] = {}

    def weight(self, name: str) -> nn.Parameter | None:
        """A stored tensor; None if the name is that of an activation."""
        found: nn.Parameter | None = self.weights.get(_key(name), None)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) in 8 bits of images (N, channels, R, R), values 0..1."""
        return self._run(images, self._rounded, rounded=True)

    def exact(self, images: Tensor) -> Tensor:
        """The same in floating point."""
        return self._run(images, lambda node, values: values)

    def points(self) -> Iterator[tuple[onnx.NodeProto, Span]]:
        """The operators whose results are rounded, each with the widest range that can matter."""
        exact = {INPUT}
        for node in self.nodes:
            name, users = node.output[0], self.users[node.output[0]]
            if node.op_type in ("HardSigmoid", "Gemm") or (node.op_type == "Add" and exact & set(node.input)):
                exact.add(name)
            elif node.op_type in _SHARING or users == ["Relu"]:  # a range that begins at 0 does what the ReLU does
                continue
            elif "HardSigmoid" in users:
                yield node, Span(-_FLAT, math.inf if len(users) > 1 else _FLAT)
            else:
                yield node, Span(0.0 if node.op_type == "Relu" else -math.inf, math.inf)

    @torch.no_grad()
    def calibrate(self, batches: Sequence[Tensor], *, fit: bool = True) -> None:
        """Choose the ranges of activations: those that round the values of these images with the least squared error.

        Args:
            batches: Images, values 0..1.
            fit: False takes the smallest and the largest value.
        """
        widest = {node.output[0]: span for node, span in self.points()}
        seen: dict[str, list[Tensor]] = defaultdict(list)

        def watch(node: onnx.NodeProto, values: Tensor) -> Tensor:
            if (name := node.output[0]) in widest:
                flat = values.flatten()
                seen[name] += [flat[:: len(flat) // _SAMPLE | 1], torch.stack(flat.aminmax())]
            return values

        for batch in batches:
            self._run(batch, watch)
        for name, span in widest.items():
            values = torch.cat(seen.pop(name)).clamp(span.low, span.high)
            self.spans[name] = _fitted(values) if fit else _covering(values)
        for node in self.nodes:
            if node.op_type in _SHARING and node.input[0] in self.spans:
                self.spans[node.output[0]] = self.spans[node.input[0]]

    def make_whole(self, batches: Sequence[Tensor]) -> None:
        """Choose ranges and biases for integers alone, with nothing spared.

        Args:
            batches: Images, values 0..1; the first 128 judge what rounding does.
        """
        self.calibrate(batches)
        some = torch.cat([*batches])[:JUDGED_BY]
        self.refine(some)
        self.correct_biases(some)

    @torch.no_grad()
    def refine(self, images: Tensor) -> None:
        """Narrow the ranges that harm the logits most, the worst first, where that brings the logits nearer.

        A range that rounds a tensor's values with the least error need not be the best for what follows: where
        channels differ much in range, most of them have hardly an integer to themselves, and clipping the few large
        ones costs less.

        Args:
            images: Values 0..1; one batch.
        """
        expected = self.exact(images)
        harm = {node.output[0]: self._harm(images, expected, node.output[0]) for node, _ in self.points()}
        error = self._error(images, expected)
        worst = sorted((name for name in harm if harm[name] > _SLIGHT), key=lambda name: -harm[name])
        for name in worst[:_REFINED]:
            for low, high in ((0.0, 1.0), (1.0, 0.0)):  # the upper end, then the lower one
                whole = best = self.spans[name]
                for share in _NARROWED:
                    ends = ((1 - (1 - share) * each) * end for each, end in ((low, whole.low), (high, whole.high)))
                    self._set_span(name, Span(*ends))
                    if (tried := self._error(images, expected)) < error:
                        best, error = self.spans[name], tried
                self._set_span(name, best)

    def _harm(self, images: Tensor, expected: Tensor, name: str) -> float:
        """How much rounding one tensor alone changes the logits, as a share of their squares."""
        span = self.spans[name]
        off = self._run(images, lambda node, values: span.rounded(values) if node.output[0] == name else values)
        return float((off - expected).square().mean() / expected.square().mean().clamp(min=1e-12))

    def _error(self, images: Tensor, expected: Tensor) -> float:
        """The same of everything that is rounded."""
        return float((self(images) - expected).square().mean() / expected.square().mean().clamp(min=1e-12))

    def _set_span(self, name: str, span: Span) -> None:
        """Change a range, and with it those of operators whose results are among these values."""
        self.spans[name] = span
        for node in self.nodes:
            if node.op_type in _SHARING and node.input[0] in self.spans:
                self.spans[node.output[0]] = self.spans[node.input[0]]

    @torch.no_grad()
    def correct_biases(self, images: Tensor) -> None:
        """Give every channel the mean that it has without rounding, layer after layer."""
        means: dict[str, Tensor] = {}

        def watch(node: onnx.NodeProto, values: Tensor) -> Tensor:
            if node.op_type in ("Conv", "Gemm"):
                means[node.output[0]] = _channel_means(values)
            return values

        def correct(node: onnx.NodeProto, values: Tensor) -> Tensor:
            if node.output[0] in means:
                off = means[node.output[0]] - _channel_means(values)
                bias = self.weight(node.input[2])
                assert bias is not None
                bias.add_(off)
                values = values + off.view(1, -1, *[1] * (values.dim() - 2))
            return self._rounded(node, values)

        self._run(images, watch)
        self._run(images, correct, rounded=True)

    @torch.no_grad()
    def spare(self, images: Tensor) -> None:
        """Leave in floating point what rounding harms most: tensors whose channels differ much in range.

        Each is judged by itself, by how much its rounding changes the logits.
        """
        expected = self.exact(images)
        names = [node.output[0] for node, _ in self.points()]
        harmful = {name for name in names if self._harm(images, expected, name) > _HARM}
        spans = {name: span for name, span in self.spans.items() if name not in harmful}
        self.spans = {name: span for name, span in spans.items() if self._rounded_before(name, spans)}

    def store(self, model: onnx.ModelProto) -> None:
        """Put the weights as they are now into the model whose graph this was."""
        for each in model.graph.initializer:
            values = self.weights[_key(each.name)].detach().cpu().numpy()
            each.CopyFrom(numpy_helper.from_array(values, each.name))

    def tune(self, batches: Iterable[Tensor], *, steps: int, rate: float = 1e-3) -> None:
        """Train the weights to answer in 8 bits as they do now in floating point (distillation, straight-through).

        Args:
            batches: Training images, values 0..1; at least as many batches as steps.
            steps: Gradient steps.
            rate: Learning rate at the beginning of a cosine; of Adam.
        """
        teacher, optimizer = copy.deepcopy(self), torch.optim.Adam(self.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
        for _, images in zip(range(steps), batches, strict=False):
            with torch.no_grad():
                expected = teacher.exact(images).log_softmax(1)
            loss = F.kl_div(self(images).log_softmax(1), expected, log_target=True, reduction="batchmean")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()

    def _rounded_before(self, name: str, spans: dict[str, Span]) -> bool:
        """Whether a tensor has a range of its own, or the one that it shares is still there."""
        node = next(each for each in self.nodes if each.output[0] == name)
        return node.op_type not in _SHARING or node.input[0] in spans

    def _run(
        self, images: Tensor, visit: Callable[[onnx.NodeProto, Tensor], Tensor], *, rounded: bool = False
    ) -> Tensor:
        """Compute operator by operator; `visit` sees each result and says what goes on."""
        values = {INPUT: images}
        for node, options, spent in zip(self.nodes, self._options, self._spent, strict=True):
            inputs = [values[name] if name in values else self._stored(node, name, rounded) for name in node.input]
            values[node.output[0]] = visit(node, _OPERATORS[node.op_type](inputs, options))
            for name in spent:
                values.pop(name, None)
        return values[OUTPUT]

    def _stored(self, node: onnx.NodeProto, name: str, rounded: bool) -> Tensor:
        values: Tensor = self.weights[_key(name)]
        if not rounded or node.op_type not in WEIGHTED or name != node.input[1]:
            return values
        axis = axis_of(node.op_type)
        scales = scales_of(values, axis)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(values, scales, zeros, axis, -LARGEST, LARGEST)

    def _rounded(self, node: onnx.NodeProto, values: Tensor) -> Tensor:
        span = self.spans.get(node.output[0])
        return values if span is None else span.rounded(values)


def _key(name: str) -> str:
    return name.replace(".", "/")  # modules may not have points in their names


def _channel_means(values: Tensor) -> Tensor:
    return values.mean([0, *range(2, values.dim())])


def _covering(values: Tensor) -> Span:
    low, high = values.aminmax()
    return Span(min(0.0, float(low)), max(0.0, float(high)))


def _fitted(values: Tensor) -> Span:
    """The range with the least squared error: the upper end first, then the lower one."""
    best = _covering(values)
    shares = torch.linspace(1, _LEAST, _SHARES).tolist()
    ends: list[Callable[[Span, float], Span]] = [
        lambda span, share: Span(span.low, span.high * share),
        lambda span, share: Span(span.low * share, span.high),
    ]
    for shrink in ends:
        tried = [shrink(best, share) for share in shares]
        best = min(tried, key=lambda span: float((span.rounded(values) - values).square().mean()))
    return best


def _conv(inputs: Sequence[Tensor], options: dict[str, Any]) -> Tensor:
    x, weight, bias = inputs
    padding, stride = options["pads"][0], options["strides"][0]
    return F.conv2d(x, weight, bias, stride=stride, padding=padding, groups=options["group"])


def _max_pool(inputs: Sequence[Tensor], options: dict[str, Any]) -> Tensor:
    beyond = options["pads"][-1]
    padded = F.pad(inputs[0], (0, beyond, 0, beyond), value=-math.inf)
    return F.max_pool2d(padded, options["kernel_shape"][0], options["strides"][0])


_OPERATORS: dict[str, Callable[[Sequence[Tensor], dict[str, Any]], Tensor]] = {
    "Sub": lambda inputs, options: inputs[0] - inputs[1],
    "Add": lambda inputs, options: inputs[0] + inputs[1],
    "Mul": lambda inputs, options: inputs[0] * inputs[1],
    "Relu": lambda inputs, options: F.relu(inputs[0]),
    "HardSigmoid": lambda inputs, options: F.hardsigmoid(inputs[0]),
    "GlobalAveragePool": lambda inputs, options: inputs[0].mean((2, 3), keepdim=True),
    "Flatten": lambda inputs, options: inputs[0].flatten(1),
    "MatMul": lambda inputs, options: inputs[0] @ inputs[1],
    "Gemm": lambda inputs, options: F.linear(inputs[0], inputs[1], inputs[2]),
    "Conv": _conv,
    "MaxPool": _max_pool,
}
