"""Python that loads an export without this project, for its model card."""

from simclr_jax.config.choices import FILE_FORMATS
from simclr_jax.config.choices import TORCH_FORMATS
from simclr_jax.interchange.exported import ExportedNetwork
from simclr_jax.interchange.torch_files import needs_module

_WITH_MODULE = """import sys

{imports}
sys.path.append(path)
from simclr_resnet import CONFIG, ResNet

model = ResNet(**CONFIG).eval()
model.load_state_dict({weights})
{output} = model(images)"""

_WITH_TORCHVISION = """{imports}
import torchvision

model = torchvision.models.resnet{depth}(num_classes={classes}).eval()
{change}model.load_state_dict({weights})
{output} = model(images)"""

_TIMM = """import timm

model = timm.create_model("{place}", pretrained=True).eval()
{output} = model(images)"""

_ONNX = """import onnxruntime

session = onnxruntime.InferenceSession(path)
{output} = session.run(["{output}"], {{"images": images}})[0]"""

_STABLEHLO = """import pathlib

import jax.export

program = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
{output} = program.call(images)["{output}"]"""

_SAVED_MODEL = """import tensorflow as tf

model = tf.saved_model.load(path).signatures["serving_default"]
{output} = model(images=tf.constant(images))["{output}"]"""

_PROGRAMS = {"timm": _TIMM, "onnx": _ONNX, "stablehlo": _STABLEHLO, "savedmodel": _SAVED_MODEL}


def snippet(network: ExportedNetwork, form: str, output: str, repository: str | None) -> str:
    """The lines.

    Args:
      network: that was exported.
      form: the format.
      output: the name of the file or folder; in a repository, files have this name and folders are the whole of it.
      repository: USER/NAME of the Hugging Face Hub; None for a local path.
    """
    values = {"output": "h" if network.class_names is None else "logits"}
    if form == "timm":
        return _TIMM.format(place=f"hf-hub:{repository}" if repository else f"local-dir:{output}", **values)
    lines = _PROGRAMS[form].format(**values) if form in _PROGRAMS else _with_torch(network, form, values)
    if repository is None:
        return f'path = "{output}"\n\n{lines}'
    call = (
        f'hf_hub_download("{repository}", "{output}")' if form in FILE_FORMATS else f'snapshot_download("{repository}")'
    )
    return f"import huggingface_hub\n\npath = huggingface_hub.{call}\n\n{lines}"


def input_of(form: str, dtype: str) -> str:
    """A sentence about the images."""
    if form not in TORCH_FORMATS:
        return f"`images` are {'uint8' if dtype == 'uint8' else 'float32 in [0, 1]'}, `[n, height, width, 3]`."
    end = ", normalised as `pretrained_cfg` in config.json says" if form == "timm" else ""
    return f"`images` are float32 `[n, 3, height, width]` in [0, 1]{end}."


def _with_torch(network: ExportedNetwork, form: str, values: dict[str, str]) -> str:
    if form == "pytorch":
        values |= {"imports": "import torch", "weights": 'torch.load(f"{path}/model.pth", weights_only=True)'}
    else:
        imports = "from safetensors.torch import load_file\nimport torch"
        values |= {"imports": imports, "weights": 'load_file(f"{path}/model.safetensors")'}
    if needs_module(network):
        return _WITH_MODULE.format(**values)
    classes = len(network.class_names) if network.class_names is not None else 1000
    change = "" if network.class_names is not None else "model.fc = torch.nn.Identity()\n"
    return _WITH_TORCHVISION.format(depth=network.model.depth, classes=classes, change=change, **values)
