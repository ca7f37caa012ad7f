"""Makes and runs ExecuTorch files in a separate process: ``executorch_process.py INPUTS OUTPUTS PROGRAM ...``.

It imports nothing of nat2. Each PROGRAM is a program of torch.export for one image, in which fake quantisation says
what is rounded to 8 bits; beside it a file that ends in ``.pte`` is written, for XNNPACK. INPUTS is a NumPy file with
images (N, channels, R, R) of values 0..1; OUTPUTS gets an ``.npz`` with, for each program, its logits as ExecuTorch's
runtime computes them and the processor seconds of the conversion, or why there are none.
"""

from __future__ import annotations

import operator
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


def in_integers(module: Any) -> Any:
    """A graph module with integers where it has fake quantisation, in the form that XNNPACK's partitioner knows.

    That is: weights in integers, a dequantisation for each use of an activation, hard-swish in one piece, and no matrix
    products but those of linear layers.
    """
    aten, integer, graph = torch.ops.aten, torch.ops.quantized_decomposed, module.graph
    for number, node in enumerate(list(graph.nodes)):
        with graph.inserting_before(node):
            if node.target == aten.fake_quantize_per_tensor_affine.default:
                values, scale, zero, *_ = node.args
                how: tuple[Any, ...] = (scale, zero - 128, -128, 127, torch.int8)
                rounded = graph.call_function(integer.quantize_per_tensor.default, (values, *how))
                for user in list(node.users):
                    with graph.inserting_before(user):
                        back = graph.call_function(integer.dequantize_per_tensor.default, (rounded, *how))
                    user.replace_input_with(node, back)
            elif node.target == aten.fake_quantize_per_channel_affine.default:
                weight, scales, zeros, axis, low, high = (_value(module, each) for each in node.args)
                (user,) = node.users
                if user.target == aten.matmul.default:
                    user.target, weight, axis = aten.linear.default, weight.T.contiguous(), 1 - axis
                scales = _wide_enough(module, user, scales)
                how = (scales, zeros.long(), axis, low, high, torch.int8)
                held = (integer.quantize_per_channel(weight, *how), *how[:2])
                names = [f"{kind}_{number}" for kind in ("integers", "scales", "zeros")]
                for name, tensor in zip(names, held, strict=True):
                    module.register_buffer(name, tensor)
                inputs = (*(graph.get_attr(name) for name in names), *how[2:])
                node.replace_all_uses_with(graph.call_function(integer.dequantize_per_channel.default, inputs))
    graph.eliminate_dead_code()
    module.recompile()
    return module


def with_hard_swish(module: Any) -> Any:
    """A graph module in which products of a tensor and its own hard sigmoid are hard-swish."""
    aten, graph = torch.ops.aten, module.graph
    for node in list(graph.nodes):
        if node.target == aten.hardsigmoid.default:
            for user in list(node.users):
                if user.target == aten.mul.Tensor and set(user.args) == {node, node.args[0]}:
                    with graph.inserting_before(user):
                        user.replace_all_uses_with(graph.call_function(aten.hardswish.default, node.args))
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _wide_enough(module: Any, user: Any, scales: Any) -> Any:
    """Scales of a weight with which the bias beside it, in integers as fine as the products, stays within 32 bits."""
    source, _, *biases = user.args
    if not biases or biases[0] is None:
        return scales
    return scales.maximum(_value(module, biases[0]).abs() / (source.args[1] * 2**30))


def _value(module: Any, node: Any) -> Any:
    """What a node computes that depends on weights alone."""
    if not isinstance(node, torch.fx.Node):
        return node
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(module).detach()
    return node.target(*(_value(module, each) for each in node.args), **node.kwargs)  # type: ignore[operator]


def convert(program: Path, target: Path) -> None:
    """Write a program as a file for ExecuTorch."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.load(program)
    module = in_integers(with_hard_swish(exported.module()))
    (image,) = (node.meta["val"] for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs)
    with torch.no_grad():
        exported = torch.export.export(module, (torch.zeros(tuple(image.shape)),))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    target.write_bytes(lowered.to_executorch().buffer)


def answers(model: Path, images: Any) -> Any:
    """Logits (N, classes) of images (N, channels, R, R), by ExecuTorch's runtime, one after the other."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(model).load_method("forward")
    return np.concatenate([method.execute([torch.from_numpy(image[None])])[0].numpy().copy() for image in images])


def main(inputs: str, outputs: str, *programs: str) -> None:
    """Convert programs, run the files and write what came out."""
    images = np.load(inputs)
    found: dict[str, Any] = {}
    torch.set_num_threads(1)
    for program in map(Path, programs):
        began = time.process_time()
        try:
            convert(program, program.with_suffix(".pte"))
            found[f"{program.stem}.seconds"] = time.process_time() - began
            found[program.stem] = answers(program.with_suffix(".pte"), images)
        except Exception as error:  # whatever a converter raises; the others may succeed
            found[f"{program.stem}.failure"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
