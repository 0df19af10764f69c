"""SSFormer on MiT-B0, polyps of centres that it has not seen, from random weights, 15 minutes of one core.

    python main.py --config_file configs/polypgen_stills/ssformer_b0.py --trainer_mode train data.root=/data/polypgen

Needs single frames of PolypGen as images/*.jpg and masks/*.png of equal names (DATA.md). Trains on centres 1, 3 and 4
and evaluates on 2, 5 and 6; the centre is read from the names of the files. Images without a polyp take part in both;
by the protocol an empty answer to such an image scores 1 and any other about 0.

study_head_b0.py, sed_b0.py and lgrnet_b0.py are the same data, augmentation, optimizer, seed and batch with another
head. The loss is BCE + soft Dice in each, in the form that the head takes, and the number of steps of each is what
takes as long as this one. Expected Dice: about 0.28, where one mask for all images has 0.22: random weights and about a
hundred images do not make a good model. RESULTS.md has all that was measured.
"""

from lgrnet.config import builds
from lgrnet.data.datasets import ClipDataset
from lgrnet.data.samplers import Single
from lgrnet.data.still_datasets import image_folder
from lgrnet.data.transforms import ColorJitter, RandomFlip, RandomResizedCrop, RandomRotate90
from lgrnet.engine.optim import adamw, cosine
from lgrnet.engine.settings import TrainSettings
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.models.backbones import MixTransformer
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import ProgressiveLocalityDecoder

# 3, 5 and 6 stand in the names; 1, 2 and 4 are what is left.
CENTRES = {
    1: "*OLCV1_*",
    2: "EndoCV2021_0*",
    3: "C3_*",
    4: "*_endocv2021_*",
    5: "EndoCV2021_C5_*",
    6: "EndoCV2021_C6_*",
}


def centres(*numbers: int):
    """The images of some of the six centres."""
    names = [CENTRES[number] for number in numbers]
    return builds(image_folder, images="${data.root}/images", masks="${data.root}/masks", names=names)


net = builds(
    SSFormer,
    backbone=builds(MixTransformer, name="mit_b0", drop_path=0.0),
    decoder=builds(ProgressiveLocalityDecoder, zen_partial=True),
)
model = builds(PerFrame, net=net, decision="sigmoid")
criterion = builds(DenseCriterion)
data = dict(
    root="data/polypgen_stills",
    size=[128, 128],
    train=builds(
        ClipDataset,
        records=centres(1, 3, 4),
        sampler=builds(Single),
        transforms=[
            builds(RandomResizedCrop, size="${data.size}"),
            builds(RandomFlip),
            builds(RandomRotate90),
            builds(ColorJitter),
        ],
        require_foreground=False,
    ),
    eval=dict(unseen=centres(2, 5, 6)),
)
optimizer = builds(adamw, lr=1e-3, backbone_lr_scale=1.0, weight_decay=1e-4, zen_partial=True)
schedule = builds(cosine, total_steps="${train.steps}", warmup_steps=50, zen_partial=True)
train = builds(
    TrainSettings, steps=840, batch_size=8, save_every=840, eval_every=210, sizes=(), clip_norm=1.0, workers=0
)
