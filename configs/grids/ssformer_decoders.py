"""SSFormer's decoder ablation: five decoders on MiT-B2, polyps in still images, trained and evaluated alike.

    python tools/run_grid.py configs/grids/ssformer_decoders.py --out runs/grids/ssformer_decoders data.root=/data/polyp

Needs PraNet's sets (DATA.md) and weights/mit_b2.pth (INSTALL.md). SSFormer's decoder (PLD), the same with sums instead
of concatenations, SegFormer's (SeD), and MLA and PUP of SETR; the release's fifth one, PPD, cannot be run as shipped.
Published settings: 2000 epochs of 1450 images, 32 per step, the loss with its double sigmoid. Here the last step
counts, where the release keeps the best by the mean over these very test sets. The numbers of the paper's ablation are
not known to us; RESULTS.md has the published table of the whole model, by another protocol.
"""

from lgrnet.config import builds
from lgrnet.data.datasets import ClipDataset
from lgrnet.data.samplers import Single
from lgrnet.data.still_datasets import POLYP_SPLITS, polyp_stills
from lgrnet.data.still_training import ssformer_training
from lgrnet.engine.grid import Cell, Metric, Published, Size
from lgrnet.engine.optim import adamw, ssformer_steps
from lgrnet.engine.settings import TrainSettings
from lgrnet.evaluation import SSFormerTestProtocol
from lgrnet.losses.published_criteria import SSFormerCriterion
from lgrnet.models import still_decoders as decoders
from lgrnet.models.backbones import MixTransformer
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer

EPOCH = -(-1450 // 32)  # steps
TESTS = [name for name in POLYP_SPLITS if name != "train"]


def split(name: str, label_map: str):
    """Images of PraNet's sets."""
    return builds(polyp_stills, root="${data.root}", split=name, label_map=label_map)


def model(decoder, enlarge: str = "corners", **settings):
    """A decoder on MiT-B2; `enlarge` is what the release does to its logits."""
    backbone = builds(MixTransformer, name="mit_b2", drop_path=0.1)
    head = builds(decoder, **settings, zen_partial=True)
    return builds(PerFrame, net=builds(SSFormer, backbone=backbone, decoder=head, enlarge=enlarge), decision="sigmoid")


base = dict(
    model=None,
    criterion=builds(SSFormerCriterion),
    data=dict(
        root="data/polyps",
        size=[352, 352],
        protocols=dict(test=builds(SSFormerTestProtocol)),
        train=builds(
            ClipDataset,
            records=split("train", "soft"),
            sampler=builds(Single),
            transforms=builds(ssformer_training, size="${data.size}", soft_masks=True),
            require_foreground=False,
        ),
        eval={name: split(name, "full") for name in TESTS},
    ),
    optimizer=builds(adamw, lr=1e-4, backbone_lr_scale=1.0, weight_decay=0.01, decay_norms=True, zen_partial=True),
    schedule=builds(ssformer_steps, steps_per_epoch=EPOCH, zen_partial=True),
    train=builds(
        TrainSettings,
        steps=2000 * EPOCH,
        batch_size=32,
        save_every=10 * EPOCH,
        eval_every=100 * EPOCH,
        metric="mean_dice",
        seed=1,
        sizes=(),
        clip_norm=0.0,
        workers=8,
        backbone_weights="weights/mit_b2.pth",
    ),
)

axes = ["decoder"]
cells = {
    "PLD (SSFormer-S)": Cell(base, model=model(decoders.ProgressiveLocalityDecoder)),
    "PLD, sums": Cell(base, model=model(decoders.ProgressiveLocalityDecoder, fusion="add")),
    "SeD": Cell(base, model=model(decoders.SegFormerDecoder)),
    "MLA": Cell(base, model=model(decoders.MultiLevelAggregationDecoder, enlarge="input")),
    # The release's PUP ends at half the resolution
    "PUP": Cell(base, model=model(decoders.ProgressiveUpsamplingDecoder, enlarge="none")),
}
metrics = [Metric(f"mean Dice {name}", "mean_dice", protocol="ssformer-test", set=name, digits=3) for name in TESTS]
metrics += [Size("parameters"), Size("MB", of="file_bytes", scale=1e-6, digits=2)]
BUILT = "the release's models, built; with layers that they never use"
PARAMETERS = (29_572_545, 29_375_937, 30_890_945, 25_972_417, 27_153_346)
FILE_MB = (118.43, 117.64, 123.72, 104.04, 108.75)
published = [
    Published("parameters", dict(zip(cells, PARAMETERS, strict=True)), BUILT),
    Published("MB", dict(zip(cells, FILE_MB, strict=True)), BUILT),
]
