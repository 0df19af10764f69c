"""SSFormer's decoder ablation: five decoders on MiT-B2, polyps in still images, trained and evaluated alike.

    python tools/run_grid.py configs/grids/ssformer_decoders.py --out runs/grids/decoders data.root=/data/polyps

Needs PraNet's sets (DATA.md) and weights/mit_b2.pth (INSTALL.md). SSFormer's decoder (PLD), the same with sums instead
of concatenations, SegFormer's (SeD), and MLA and PUP of SETR; the release's fifth one, PPD, cannot be run as shipped.
Settings are those of configs/polyp_images/ssformer_s.py, criterion.loss=published repeats the loss of the release. Here
the last step counts, where the release keeps the best by the mean over these very test sets. The numbers of the paper's
ablation are not known to us; RESULTS.md has the published table of the whole model, by another protocol.
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.data.still_datasets import POLYP_SPLITS
from lgrnet.engine.grid import Cell, Metric, Published, Size
from lgrnet.models import still_decoders as decoders
from lgrnet.models.backbones import MixTransformer
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer

base = read_config(Path(__file__).parents[1] / "polyp_images" / "ssformer_s.py")
TESTS = [name for name in POLYP_SPLITS if name != "train"]


def model(decoder, enlarge: str = "corners", **settings):
    """A decoder on MiT-B2; `enlarge` is what the release does to its logits."""
    backbone = builds(MixTransformer, name="mit_b2", drop_path=0.1)
    head = builds(decoder, **settings, zen_partial=True)
    return builds(PerFrame, net=builds(SSFormer, backbone=backbone, decoder=head, enlarge=enlarge), decision="sigmoid")


axes = ["decoder"]
cells = {
    "PLD (SSFormer-S)": Cell(base),
    "PLD, sums": Cell(base, model=model(decoders.ProgressiveLocalityDecoder, fusion="add")),
    "SeD": Cell(base, model=model(decoders.SegFormerDecoder)),
    "MLA": Cell(base, model=model(decoders.MultiLevelAggregationDecoder, enlarge="input")),
    # The release's PUP ends at half the resolution
    "PUP": Cell(base, model=model(decoders.ProgressiveUpsamplingDecoder, enlarge="none")),
}
metrics = [Metric(f"mean Dice {name}", "mean_dice", protocol="ssformer-test", set=name, digits=3) for name in TESTS]
metrics += [Metric(f"Dice at 0.5 {name}", "dice", protocol="lgrnet", set=name, digits=3) for name in TESTS]
metrics += [Size("parameters"), Size("MB", of="file_bytes", scale=1e-6, digits=2)]
BUILT = "the release's models, built; with layers that they never use"
PARAMETERS = (29_572_545, 29_375_937, 30_890_945, 25_972_417, 27_153_346)
FILE_MB = (118.43, 117.64, 123.72, 104.04, 108.75)
published = [
    Published("parameters", dict(zip(cells, PARAMETERS, strict=True)), BUILT),
    Published("MB", dict(zip(cells, FILE_MB, strict=True)), BUILT),
]
