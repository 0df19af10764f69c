"""Installs lgrnet. The folders of ops/ become lgrnet.ops.scan, lgrnet.ops.neighborhood, and so on.

Their names are discovered, so that a new op needs no line here; detectron2 maps its projects/ the same way.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "lgrnet/__init__.py").read_text(encoding="utf-8"), re.M)[1]
OPS = {f"lgrnet.ops.{name}": f"ops/{name.replace('.', '/')}" for name in find_packages("ops")}

CORE = [
    "torch>=2.10",
    "torchvision>=0.25",
    "timm>=1.0.20",
    "segmentation-models-pytorch>=0.5",
    "einops>=0.8",
    "numpy>=1.26",
    "scipy>=1.11",
    "pillow>=10.1",
    "opencv-python-headless>=4.9",
    "pycocotools>=2.0.8",
    "av>=14",
    "safetensors>=0.5",
    "hydra-zen>=0.13",
    "omegaconf>=2.3",
    "rich>=13.7",
]
EXTRAS = {
    # yacs: the tests of the detectron2 bridge, where detectron2 itself is not installed
    "dev": ["pytest>=8", "pytest-cov>=6", "pytest-xdist>=3.6", "ruff>=0.14", "yacs>=0.1.8"],
    "tensorboard": ["tensorboard>=2.18"],
    "demo": ["gradio>=5", "pillow<13"],
    "medical": ["pydicom>=3", "nibabel>=5.3"],
    "cluster": ["submitit>=1.5"],
    "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.3"],
    "mamba": ["mamba-ssm>=2.2"],
    "natten": ["natten>=0.21"],
    "cvt": ["transformers>=4.50"],
    "detectron2": ["detectron2 @ git+https://github.com/facebookresearch/detectron2", "setuptools<81"],
}

setup(
    name="lgrnet",
    version=VERSION,
    description="Lesion segmentation in medical video: LGRNet and its relatives, trained, evaluated and run",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["lgrnet", "lgrnet.*"]), *OPS],
    package_dir=OPS,
    package_data={"lgrnet.checkpoint": ["*.safetensors"], "lgrnet.detectron2_bridge": ["configs/*"]},
    install_requires=CORE,
    extras_require=EXTRAS,
)
