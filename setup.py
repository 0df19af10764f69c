"""Installs lgrnet. The folders of ops/ become lgrnet.ops.scan, lgrnet.ops.neighborhood, and so on.

Their names are discovered, so that a new op needs no line here; detectron2 maps its projects/ the same way.
ops/*/cpu/*.cpp become three libraries, for three kinds of processors. Without a compiler the installation goes on.
"""

import copy
import platform
import re
import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "lgrnet/__init__.py").read_text(encoding="utf-8"), re.M)[1]
OPS = {f"lgrnet.ops.{name}": f"ops/{name.replace('.', '/')}" for name in find_packages("ops")}

SOURCES = sorted(str(path.relative_to(HERE)) for path in HERE.glob("ops/**/*.cpp"))
HEADERS = sorted(str(path.relative_to(HERE)) for path in HERE.glob("ops/**/*.h"))
FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
PLAINLY = {"avx512": ["-DLGRNET_EMULATED=1"]}
"""For assemblers that do not know AVX512_BF16 or AMX, those before binutils 2.35: torch multiplies bfloat16 then."""


class BuildModules(build_py):
    """Modules of these sources alone: what an earlier build has left is not of them."""

    def run(self):
        built = Path(self.build_lib, "lgrnet").resolve()
        if not self.editable_mode and built != HERE.resolve() / "lgrnet":
            shutil.rmtree(built, ignore_errors=True)
        super().run()


class Wheel(bdist_wheel):
    """For every Python of this kind of machine: the libraries know nothing of Python."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class BuildKernels(build_ext):
    """Libraries with a plain C interface instead of Python modules, all at a time."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or len(FLAGS)

    def build_extension(self, ext):
        # In a folder of its own: all three make objects of the same names.
        # What does not compile any more does not stay behind.
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        alone = copy.copy(self)
        alone.build_temp = str(Path(self.build_temp, ext.name))
        plainly = PLAINLY.get(ext.name.rpartition(".")[2])
        try:
            super(BuildKernels, alone).build_extension(ext)
        except CompileError:
            if plainly is None:
                raise
            ext.extra_compile_args += plainly
            super(BuildKernels, alone).build_extension(ext)

    def get_export_symbols(self, ext):
        return []

    def copy_extensions_to_source(self):
        for ext in self.extensions:
            # Written anew instead of over: a process that runs the old library keeps it. One that does not compile
            # any more does not stay behind.
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        super().copy_extensions_to_source()

    def get_ext_filename(self, fullname):
        # The dot keeps Python from taking a library for a module.
        *folder, name = fullname.split(".")
        return str(Path(*folder, f"kernels.{name}.so"))


def kernels():
    """One library per set of flags; on other processors than x86 only the portable one."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    warnings = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # GCC 12, about its own header
    common = ["-O3", "-g0", "-std=c++17", "-ffp-contract=fast", "-pthread", *warnings]
    return [
        Extension(
            f"lgrnet.ops.cpu.{name}",
            SOURCES,
            depends=HEADERS,
            language="c++",
            extra_compile_args=[*common, *flags],
            extra_link_args=["-pthread", "-ldl"],
            optional=True,  # without a compiler, or where a flag is unknown, the installation goes on
        )
        for name, flags in FLAGS.items()
        if x86 or not flags
    ]


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
    "av>=15",
    "safetensors>=0.5",
    "hydra-zen>=0.13",
    "omegaconf>=2.3",
    "rich>=13.7",
]
EXTRAS = {
    # yacs: the tests of the detectron2 bridge, where detectron2 itself is not installed; nibabel: those of NIfTI slices
    "dev": ["pytest>=8", "pytest-cov>=6", "pytest-xdist>=3.6", "ruff>=0.14", "yacs>=0.1.8", "nibabel>=5.3"],
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
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=["Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Medical Science Apps."],
    python_requires=">=3.10",
    packages=[*find_packages(include=["lgrnet", "lgrnet.*"]), *OPS],
    package_dir=OPS,
    ext_modules=kernels(),
    cmdclass={"build_py": BuildModules, "build_ext": BuildKernels, "bdist_wheel": Wheel},
    package_data={
        "lgrnet.checkpoint": ["*.safetensors"],
        "lgrnet.detectron2_bridge": ["configs/*"],
        "lgrnet.evaluation": ["page/*"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
)
