"""From predicted and annotated masks to numbers, each with the protocol that defines it. No torch."""

from lgrnet.evaluation.annotation import read_annotation
from lgrnet.evaluation.average_precision import AveragePrecision
from lgrnet.evaluation.evaluator import Evaluator
from lgrnet.evaluation.protocols import FrameRow, LGRNetProtocol, Protocol, Score
from lgrnet.evaluation.report import write_report

__all__ = [
    "AveragePrecision",
    "Evaluator",
    "FrameRow",
    "LGRNetProtocol",
    "Protocol",
    "Score",
    "read_annotation",
    "write_report",
]
