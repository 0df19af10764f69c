"""All protocols by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lgrnet.evaluation.over_time import OverTimeProtocol
from lgrnet.evaluation.plain_protocol import PlainProtocol
from lgrnet.evaluation.protocols import LGRNetProtocol
from lgrnet.evaluation.size_protocol import SvANetSizeProtocol
from lgrnet.evaluation.ssformer_protocols import SSFormerTestProtocol, StudyProtocol
from lgrnet.evaluation.video_scorer import AnyProtocol
from lgrnet.evaluation.vps_protocol import PraNetProtocol, VPSProtocol

PROTOCOLS: dict[str, Callable[[], AnyProtocol]] = {
    protocol().id: protocol
    for protocol in (
        LGRNetProtocol,
        VPSProtocol,
        partial(VPSProtocol, resize="imresize"),
        PraNetProtocol,
        SSFormerTestProtocol,
        StudyProtocol,
        SvANetSizeProtocol,
        PlainProtocol,
        OverTimeProtocol,
    )
}
"""Id -> what makes it without arguments: the published one."""


def choose_protocols(names: str, fps: float | None = None, flow: bool = False) -> list[AnyProtocol]:
    """The protocols of a comma-separated list of ids; "all" is every one.

    fps   frames a second, for over-time
    flow  whether over-time follows the motion between frames, whose images are needed then

    Raises ValueError for an unknown or repeated id, or none.
    """
    chosen = list(PROTOCOLS) if names.strip() == "all" else [name.strip() for name in names.split(",")]
    unknown = [name for name in chosen if name not in PROTOCOLS]
    if unknown or len(set(chosen)) < len(chosen):
        raise ValueError(f'protocols are {names!r}; expected "all", or some of {", ".join(PROTOCOLS)}, each once')
    return [OverTimeProtocol(fps, flow=flow) if name == OverTimeProtocol.id else PROTOCOLS[name]() for name in chosen]
