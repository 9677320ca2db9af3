"""Installs the package `simclr_jax`.

A wheel carries `configs/` as `simclr_jax/configs`, so that the commands find their default configs outside a clone. The
launchers and benchmarks are used from a clone: `pip install -e .`
"""

import pathlib
import re

from setuptools import find_packages
from setuptools import setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "simclr_jax" / "__init__.py").read_text()).group(1)

# Folders of Python files that are data, not packages to import from.
CONFIGS = {"simclr_jax.configs": "configs", "simclr_jax.configs.sweeps": "configs/sweeps"}

setup(
    name="simclr_jax",
    version=VERSION,
    description="SimCLR in JAX and Flax: contrastive pretraining, linear probes and fine-tuning, from laptop to TPU pod",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["simclr_jax", "simclr_jax.*"]), *CONFIGS],
    package_dir=CONFIGS,
    package_data={
        "simclr_jax": ["py.typed"],
        "simclr_jax.inference": ["templates/*"],
        "simclr_jax.reporting": ["templates/*"],
        "simclr_jax.interchange": ["templates/*"],
    },
    install_requires=[
        "absl-py>=2.1",
        "etils[epath]>=1.9",
        "flax>=0.12",
        "importlib_resources",  # tensorflow-datasets needs it to prepare a data set, but does not require it
        "jax>=0.10",
        "jaxtyping>=0.3",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "ml_collections>=1.0",
        "numpy>=1.26",
        # Convolutions on a CPU; without it XLA's are used.
        "onednn-cpu-gomp>=2023.2; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30",
        "pillow>=11.3",
        "pyyaml",
        "scikit-learn>=1.4",
        "tensorboardX>=2.6",
        # TensorFlow reads data on the CPU; its CPU-only wheel has a third of the size.
        "tensorflow-cpu>=2.18; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "tensorflow>=2.18; platform_system != 'Linux' or platform_machine != 'x86_64'",
        "tensorflow-datasets>=4.9.7",
        "threadpoolctl>=3.1",
        "tqdm>=4.66",
    ],
    extras_require={
        # HEIC and JPEG XL
        "formats": ["pillow-heif>=0.20", "pillow-jxl-plugin>=1.3"],
        # Parquet files of simclr_jax.embed and simclr_jax.predict
        "embed": ["pyarrow>=15"],
        # simclr_jax.prepare, records in a bucket, and TFDS's array_record format. array_record has no wheels for Windows.
        "records": ["array_record>=0.7; platform_system != 'Windows'", "gcsfs", "pyarrow>=17"],
        # simclr_jax.prepare --runner
        "beam": ["apache-beam>=2.60", "array_record>=0.7; platform_system != 'Windows'"],
        # `make test`. setuptools builds the wheel that tests/test_wheel.py installs.
        "test": [
            "array_record>=0.7; platform_system != 'Windows'",
            "beartype>=0.20",
            "faiss-cpu>=1.9",
            "gcsfs",
            "huggingface_hub>=0.34",
            "hypothesis>=6.100",
            "jsonschema",
            "kubernetes",
            "mlflow-skinny>=2.20",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "orbax-export>=0.0.8",
            "pillow-heif>=0.20",
            "pillow-jxl-plugin>=1.3",
            "pyarrow>=17",
            "pytest>=8",
            "pytest-cov>=6",
            "pytest-xdist>=3.5",
            "safetensors>=0.4",
            "setuptools>=77",
            "wandb>=0.19",
        ],
        # `make lint` and `make types`
        "dev": [
            "mypy>=1.15",
            "pre-commit>=4",
            "pre-commit-hooks>=5",
            "ruff>=0.14",
            "types-PyYAML",
        ],
        # `make docs`
        "docs": ["furo", "myst-parser>=4", "sphinx>=8"],
        # simclr_jax.search
        "search": ["faiss-cpu>=1.9", "pyarrow>=17"],
        # `import_weights`: .safetensors files; .pt, .pth and .ckpt files.
        "weights": ["safetensors>=0.4"],
        "torch": ["torch>=2.2"],
        # `export` to ONNX and SavedModel; StableHLO needs nothing more.
        "export": ["onnx>=1.16", "onnxruntime>=1.18", "orbax-export>=0.0.8"],
        # `load("hf://USER/NAME")`, `export --push_to_hub`
        "hub": ["huggingface_hub>=0.34"],
        # --tracker. The full mlflow is needed only for a database on this machine; a server needs this part.
        "wandb": ["wandb>=0.19"],
        "mlflow": ["mlflow-skinny>=2.20"],
        "tpu": ["jax[tpu]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
    },
)
