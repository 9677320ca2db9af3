"""The encoder as an ONNX graph, built layer by layer. Batch, height and width are free.

Not traced from the JAX program: that would fix the size of the images and keep tricks for the speed of training.
"""

from collections.abc import Sequence
from typing import Any

from etils import epath
import numpy as np

from simclr_jax.interchange.exported import ExportedNetwork
from simclr_jax.interchange.layers import Skeleton
from simclr_jax.interchange.layers import block_name
from simclr_jax.runtime import extras

OPSET = 17
EPSILON = 1e-5  # of every BatchNorm


def import_onnx() -> Any:
    """The library.

    Raises:
      UserError: if it is not installed.
    """
    return extras.load("onnx", "ONNX needs onnx and onnxruntime", "export")


def build(network: ExportedNetwork, *, uint8: bool) -> Any:
    """An `onnx.ModelProto`.

    Its input is "images", uint8 or float32 `[batch, height, width, 3]`. Its outputs are "h", float32 `[batch, features]`, and
    with a classifier "logits", float32 `[batch, classes]`.

    Args:
      network: to write.
      uint8: whether images are uint8 in 0 to 255 instead of float32 in [0, 1].
    """
    tensors, skeleton = network.tensors, network.skeleton
    graph = _Graph(import_onnx(), tensors)
    x = _stem(graph, network, graph.images(network, uint8))
    for stage, block, project in skeleton.blocks():
        stride = 2 if stage > 0 and block == 0 else 1
        x = _block(graph, skeleton, block_name(stage, block), x, stride, project)
    h = graph.add("ReduceMean", x, axes=[2, 3], keepdims=0, output="h")
    outputs = ["h"]
    if skeleton.classifier:
        kernel, bias = (
            graph.constant(f"classifier/{leaf}", tensors[f"classifier/{leaf}"]) for leaf in ("kernel", "bias")
        )
        graph.add("Gemm", _head(graph, network, h), kernel, bias, output="logits")
        outputs.append("logits")
    return graph.model(uint8, outputs)


def _head(graph: "_Graph", network: ExportedNetwork, x: str) -> str:
    """What the classifier is on: h, or the output of a layer of the projection head."""
    for layer in range(1, network.head_layers + 1):
        name = f"head/dense{layer}/kernel"
        x = graph.bn(graph.add("MatMul", x, graph.constant(name, network.tensors[name])), f"head/bn{layer}")
        x = graph.relu(x) if layer < network.head_layers or network.head_relu else x
    return x


def _stem(graph: "_Graph", network: ExportedNetwork, x: str) -> str:
    skeleton = network.skeleton
    if skeleton.deep_stem:
        x = graph.relu(graph.conv_bn(x, "encoder/stem_conv1", "encoder/stem_bn1", stride=2))
        x = graph.relu(graph.conv_bn(x, "encoder/stem_conv2", "encoder/stem_bn2"))
    stride = 2 if skeleton.stem == "imagenet" and not skeleton.deep_stem else 1
    pad = 2 if skeleton.stem == "cifar_wide" else None
    x = graph.relu(graph.conv_bn(x, "encoder/stem_conv", "encoder/stem_bn", stride=stride, pad=pad))
    if skeleton.stem != "imagenet":
        return x
    padding: dict[str, Any] = {"pads": [1, 1, 1, 1]} if network.model.padding == "torch" else {"auto_pad": "SAME_UPPER"}
    return graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], **padding)


def _block(graph: "_Graph", skeleton: Skeleton, name: str, x: str, stride: int, project: bool) -> str:
    shortcut = x
    if project:
        if skeleton.selective:
            padding: dict[str, Any] = {"pads": [0, 0, 1, 1], "count_include_pad": 1}
            if stride == 1:
                padding = {"auto_pad": "SAME_UPPER", "count_include_pad": 0}
            shortcut = graph.add("AveragePool", x, kernel_shape=[2, 2], strides=[stride, stride], **padding)
        shortcut_stride = 1 if skeleton.selective else stride
        shortcut = graph.conv_bn(shortcut, f"{name}/shortcut_conv", f"{name}/shortcut_bn", stride=shortcut_stride)
    if not skeleton.bottleneck:
        x = graph.relu(graph.conv_bn(x, f"{name}/conv1", f"{name}/bn1", stride=stride))
        x = graph.conv_bn(x, f"{name}/conv2", f"{name}/bn2")
    else:
        x = graph.relu(graph.conv_bn(x, f"{name}/conv1", f"{name}/bn1"))
        if skeleton.selective:
            x = _selective(graph, f"{name}/conv2", x, stride)
        else:
            x = graph.relu(graph.conv_bn(x, f"{name}/conv2", f"{name}/bn2", stride=stride))
        x = graph.conv_bn(x, f"{name}/conv3", f"{name}/bn3")
    return graph.relu(graph.add("Add", x, shortcut))


def _selective(graph: "_Graph", name: str, x: str, stride: int) -> str:
    """See `models.selective_kernels`."""
    x = graph.relu(graph.conv_bn(x, f"{name}/conv", f"{name}/bn", stride=stride))
    a, b = graph.split(x)
    mixing = graph.add("GlobalAveragePool", graph.add("Add", a, b))
    mixing = graph.relu(graph.conv_bn(mixing, f"{name}/mixing_conv1", f"{name}/mixing_bn"))
    logits_a, logits_b = graph.split(graph.conv(mixing, f"{name}/mixing_conv2"))
    weight = graph.add("Sigmoid", graph.add("Sub", logits_a, logits_b))
    return graph.add("Add", b, graph.add("Mul", weight, graph.add("Sub", a, b)))


class _Graph:
    """Nodes and constants. Every method returns the name of its output."""

    def __init__(self, onnx: Any, tensors: dict[str, np.ndarray]):
        self._onnx, self._tensors = onnx, tensors
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self._constants[name] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
        return name

    def images(self, network: ExportedNetwork, uint8: bool) -> str:
        """The input as float32 `[batch, 3, height, width]`, normalised."""
        x = self.add("Cast", "images", to=self._onnx.TensorProto.FLOAT) if uint8 else "images"
        if uint8:
            x = self.add("Div", x, self.constant("white", np.array(255)))
        mean, std = network.model.input_mean, network.model.input_std
        if any(mean) or any(value != 1 for value in std):
            x = self.add("Sub", x, self.constant("mean", np.array(mean)))
            x = self.add("Div", x, self.constant("std", np.array(std)))
        return self.add("Transpose", x, perm=[0, 3, 1, 2])

    def conv(self, x: str, name: str, stride: int = 1, pad: int | None = None) -> str:
        kernel = self._tensors[f"{name}/kernel"]
        pad = (kernel.shape[0] - 1) // 2 if pad is None else pad
        weight = self.constant(f"{name}/kernel", kernel.transpose(3, 2, 0, 1))
        return self.add("Conv", x, weight, strides=[stride, stride], pads=[pad] * 4)

    def conv_bn(self, x: str, conv: str, bn: str, stride: int = 1, pad: int | None = None) -> str:
        return self.bn(self.conv(x, conv, stride, pad), bn)

    def bn(self, x: str, bn: str) -> str:
        """Without an offset the one at the end of a projection head."""
        zeros = np.zeros_like(self._tensors[f"{bn}/mean"])
        leaves = ("scale", "bias", "mean", "var")
        values = [self.constant(f"{bn}/{leaf}", self._tensors.get(f"{bn}/{leaf}", zeros)) for leaf in leaves]
        return self.add("BatchNormalization", x, *values, epsilon=EPSILON)

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def split(self, x: str) -> tuple[str, str]:
        """Two halves of the channels."""
        number = len(self._nodes)
        halves = f"half_{number}_a", f"half_{number}_b"
        self._nodes.append(self._onnx.helper.make_node("Split", [x], halves, axis=1))
        return halves

    def model(self, uint8: bool, outputs: Sequence[str]) -> Any:
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        images = helper.make_tensor_value_info(
            "images", kinds.UINT8 if uint8 else kinds.FLOAT, ["batch", "height", "width", 3]
        )
        results = [helper.make_tensor_value_info(name, kinds.FLOAT, ["batch", f"{name}_size"]) for name in outputs]
        graph = helper.make_graph(self._nodes, "simclr", [images], results, list(self._constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="simclr_jax")
        model.ir_version = 8  # which all runtimes for opset 17 read
        self._onnx.checker.check_model(model)
        return model


def write(network: ExportedNetwork, dtype: Any, path: epath.Path) -> None:
    """Write a .onnx file."""
    path.write_bytes(build(network, uint8=dtype == np.uint8).SerializeToString())


def run(path: epath.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What onnxruntime computes with a .onnx file.

    Raises:
      UserError: if onnxruntime is not installed.
    """
    onnxruntime = extras.load("onnxruntime", "ONNX needs onnx and onnxruntime", "export")
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))
