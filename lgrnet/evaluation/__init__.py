"""From predicted and annotated masks to numbers, each with the protocol that defines it. No torch."""

from lgrnet.evaluation.annotation import holds_ones, read_annotation
from lgrnet.evaluation.attributes import read_attributes
from lgrnet.evaluation.average_precision import AveragePrecision
from lgrnet.evaluation.catalogue import PROTOCOLS, choose_protocols
from lgrnet.evaluation.evaluator import Evaluator
from lgrnet.evaluation.html_report import Picture, Pictures, ScoredSet, write_html
from lgrnet.evaluation.over_time import OverTimeProtocol
from lgrnet.evaluation.plain_protocol import PlainProtocol
from lgrnet.evaluation.protocols import (
    ClipFold,
    ClipProtocol,
    ClipRow,
    FrameRow,
    LGRNetProtocol,
    Protocol,
    Score,
)
from lgrnet.evaluation.report import plain_json, write_report
from lgrnet.evaluation.set_means import means_over_sets
from lgrnet.evaluation.size_protocol import SvANetSizeProtocol
from lgrnet.evaluation.ssformer_protocols import SSFormerTestProtocol, StudyProtocol
from lgrnet.evaluation.video_scorer import VideoScorer
from lgrnet.evaluation.vps_protocol import PraNetProtocol, VPSProtocol

__all__ = [
    "PROTOCOLS",
    "AveragePrecision",
    "ClipFold",
    "ClipProtocol",
    "ClipRow",
    "Evaluator",
    "FrameRow",
    "LGRNetProtocol",
    "Picture",
    "Pictures",
    "OverTimeProtocol",
    "PlainProtocol",
    "PraNetProtocol",
    "Protocol",
    "SSFormerTestProtocol",
    "Score",
    "ScoredSet",
    "StudyProtocol",
    "SvANetSizeProtocol",
    "VPSProtocol",
    "VideoScorer",
    "choose_protocols",
    "holds_ones",
    "means_over_sets",
    "plain_json",
    "read_annotation",
    "write_html",
    "read_attributes",
    "write_report",
]
