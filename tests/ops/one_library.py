"""A pytest plugin: all CPU kernels come from the library whose path the environment variable LGRNET_KERNELS tells.

With LGRNET_PAIRS they multiply bfloat16 pair after pair also on processors that would multiply whole matrices.
"""

from __future__ import annotations

import ctypes
import os
import sys

from lgrnet.ops import cpu

cpu._load = lambda name: ctypes.CDLL(os.environ["LGRNET_KERNELS"])
if "LGRNET_PAIRS" in os.environ:
    for op in ("attention", "projection"):
        sys.modules[f"lgrnet.ops.{op}.cpu"].multiplies_matrices = lambda: False
