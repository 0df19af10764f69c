"""The face of ops/: `from lgrnet.ops import selective_scan, depthwise_gelu, ...`.

The sources stand in the top-level folder ops/. In a clone that folder is appended to this package's path; in an
installed package setup.py has put the same folders here.
"""

from pathlib import Path

_clone = Path(__file__).resolve().parents[2] / "ops"
if (_clone / "scan").is_dir():
    __path__.append(str(_clone))

from lgrnet.ops.attention import multi_head_attention  # noqa: E402
from lgrnet.ops.deform import ms_deform_attn  # noqa: E402
from lgrnet.ops.depthwise import depthwise_gelu  # noqa: E402
from lgrnet.ops.masks import mask_logits  # noqa: E402
from lgrnet.ops.neighborhood import neighborhood_attention  # noqa: E402
from lgrnet.ops.normalization import layer_norm  # noqa: E402
from lgrnet.ops.projection import linear  # noqa: E402
from lgrnet.ops.scan import selective_scan  # noqa: E402

__all__ = [
    "depthwise_gelu",
    "layer_norm",
    "linear",
    "mask_logits",
    "ms_deform_attn",
    "multi_head_attention",
    "neighborhood_attention",
    "selective_scan",
]
