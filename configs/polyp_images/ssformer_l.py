"""SSFormer-L: SSFormer-S on MiT-B4.

    python main.py --config_file configs/polyp_images/ssformer_l.py --trainer_mode train data.root=/data/polyps

Everything that ssformer_s.py says holds; weights/mit_b4.pth are its ImageNet weights (INSTALL.md).
Expected Dice at 0.5 (readme of SSFormer, MICCAI 2022, columns maxDic): CVC-300 0.898, CVC-ClinicDB 0.909, Kvasir 0.920,
CVC-ColonDB 0.805, ETIS-LaribPolypDB 0.798.
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.models.backbones import MixTransformer
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import ProgressiveLocalityDecoder

small = read_config(Path(__file__).with_name("ssformer_s.py"))

net = builds(
    SSFormer,
    backbone=builds(MixTransformer, name="mit_b4", drop_path=0.1),
    decoder=builds(ProgressiveLocalityDecoder, zen_partial=True),
)
model = builds(PerFrame, net=net, decision="sigmoid")
criterion, data, optimizer, schedule = (small[name] for name in ("criterion", "data", "optimizer", "schedule"))
train = builds(small["train"], backbone_weights="weights/mit_b4.pth")
