"""SvANet with ResNet-50 on images of a folder in SvANet's layout, the published settings as they were run: PolypGen.

    python main.py --config_file configs/svanet/svanet_r50.py --trainer_mode train data.root=/data/svanet

Needs PolypGen in SvANet's layout (DATA.md) and weights/resnet50-11ad3fa6.pth (INSTALL.md); the other sets have files of
their own beside this one. Expected mDice of objects below 1 % of the image (abstract of arXiv 2407.07720v4; a mean over
polyp and background, protocol svanet-size, published_dice): 84.15. RESULTS.md has the published tables.

An epoch is a quarter of the training images. How the published runs split their data is not published; here it is
four fifths of PolypGen's 8037 frames. For E steps of an epoch:

    train.eval_every=E train.steps=100E train.freeze_steps=10E

Masks hold class indices; for masks of 0 and 255 set data.label_map=binary.

As run: AdamW with 0.03 of decay on everything, 100 epochs of 4 images a step at 512 pixels, the backbone frozen in the
first 10 while its batch norms follow the data, a cosine with a restart where it joins; frames in 0..1 without mean and
deviation (the release would take them from a norm_train.csv beside the images, which it does not have: give its two
rows as model.pixel_mean and model.pixel_std); crops filled up with white; the best weights by mIoU with background on
the very split that is reported.
Without ImageNet weights: train.backbone_weights=null train.freeze_steps=0 schedule.restart=false. Published runs were
not seeded, and were repeated three times: train.seed=1, 2, 3, which also draws which cells belong to which scale
(model.net.mask_seed). For one fold of a cross-validation: data.fold=1.
"""

from lgrnet.config import builds
from lgrnet.data.datasets import ClipDataset
from lgrnet.data.samplers import Single
from lgrnet.data.still_datasets import SVANET_CLASSES, svanet_set
from lgrnet.data.still_training import svanet_training
from lgrnet.engine.optim import adamw, restarted_cosine
from lgrnet.engine.settings import TrainSettings
from lgrnet.evaluation import SvANetSizeProtocol
from lgrnet.losses.softmax_criterion import SoftmaxCriterion
from lgrnet.models.deeplabv3 import DeepLabV3
from lgrnet.models.resnet import ResNetBackbone
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.svanet import SvANet

EPOCHS, BATCH = 100, 4


def still(net):
    """A network on frames in 0..1 as they are, softmax over background and classes; one frame of a video at a time."""
    as_they_are = dict(pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))
    return builds(PerFrame, net=net, chunk=1, decision="softmax", **as_they_are)


def svanet(name: str, backbone: str = "resnet50", **settings):
    """SvANet for the classes of a data set; `settings` are other arguments than the published ones."""
    run = dict(image_size="${data.size.0}", mask_seed="${train.seed}")
    settings = dict(num_classes=1 + len(SVANET_CLASSES[name]), **run, **settings)
    return still(builds(SvANet, backbone=builds(ResNetBackbone, name=backbone), **settings))


def deeplabv3(name: str, backbone: str = "resnet50"):
    """The plain DeepLabV3 that SvANet is compared with."""
    channels = 1 + len(SVANET_CLASSES[name])
    return still(builds(DeepLabV3, backbone=builds(ResNetBackbone, name=backbone), num_classes=channels))


def split(name: str):
    """Images of the data set."""
    more = dict(fold="${data.fold}", label_map="${data.label_map}")
    return builds(svanet_set, root="${data.root}", name="${data.name}", split=name, **more)


def data_of(name: str) -> dict:
    """A data set in SvANet's layout, with the published augmentation and numbers."""
    return dict(
        root="data/svanet",
        name=name,
        fold=None,
        label_map=None,
        size=[512, 512],
        resize="bicubic",
        protocols=dict(size=builds(SvANetSizeProtocol)),
        train=builds(
            ClipDataset,
            records=split("train"),
            sampler=builds(Single),
            transforms=builds(svanet_training, size="${data.size.0}", frame_fill=255),
            require_foreground=False,
        ),
        eval=dict(test=split("test")),
    )


def on(name: str, images: int) -> dict:
    """The six sections for a data set with so many training images."""
    epoch = -(-images // BATCH)
    return dict(
        model=svanet(name),
        criterion=builds(SoftmaxCriterion),
        data=data_of(name),
        optimizer=builds(adamw, lr=5e-4, backbone_lr_scale=1.0, weight_decay=0.03, decay_norms=True, zen_partial=True),
        schedule=builds(restarted_cosine, epochs=EPOCHS, steps_per_epoch="${train.eval_every}", zen_partial=True),
        train=builds(
            TrainSettings,
            steps=EPOCHS * epoch,
            batch_size=BATCH,
            save_every="${train.eval_every}",
            eval_every=epoch,
            freeze_steps=EPOCHS // 10 * epoch,
            keep=1,
            metric="published_iou",
            sizes=(),
            clip_norm=0.0,
            backbone_weights="weights/resnet50-11ad3fa6.pth",
        ),
    )


model, criterion, data, optimizer, schedule, train = on("PolypGen", images=8037 * 4 // 5).values()
