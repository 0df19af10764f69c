"""A config of a tiny still model, one class by a sigmoid map, on images/ and masks/; runs in seconds."""

from lgrnet.config import builds
from lgrnet.data.datasets import ClipDataset
from lgrnet.data.samplers import Single
from lgrnet.data.still_datasets import image_folder
from lgrnet.data.transforms import Resize
from lgrnet.engine.optim import adamw, constant
from lgrnet.engine.settings import TrainSettings
from lgrnet.evaluation import LGRNetProtocol, SvANetSizeProtocol
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.models.plain_head import PlainHead
from lgrnet.models.segmenter import PerFrame
from tests.engine.toy import ToyLevels


def images(label_map="binary"):
    """All images of the root."""
    return builds(image_folder, images="${data.root}/images", masks="${data.root}/masks", label_map=label_map)


def data_of(records) -> dict:
    """A data section that trains and evaluates on the same images."""
    return dict(
        root="data",
        size=[50, 70],
        resize="bicubic",
        protocols=dict(size=builds(SvANetSizeProtocol), lgrnet=builds(LGRNetProtocol)),
        train=builds(
            ClipDataset,
            records=records,
            sampler=builds(Single),
            transforms=[builds(Resize, size="${data.size}")],
            require_foreground=False,
        ),
        eval=dict(test=records),
    )


def tiny(channels: int, decision: str):
    """The plainest head on two convolutions."""
    return builds(
        PerFrame, net=builds(PlainHead, backbone=builds(ToyLevels), dim=32, num_classes=channels), decision=decision
    )


model = tiny(1, "sigmoid")
criterion = builds(DenseCriterion)
data = data_of(images())
optimizer = builds(adamw, lr=1e-3, zen_partial=True)
schedule = builds(constant, zen_partial=True)
train = builds(TrainSettings, steps=2, batch_size=2, save_every=2, sizes=(), workers=0, device="cpu", pictures=1)
