"""The head of SSFormer's reproduction study on MiT-B0, otherwise ssformer_b0.py, in the same time.

    python main.py --config_file configs/polypgen_stills/study_head_b0.py --trainer_mode train data.root=/data/polypgen

The study calls this head PLD; see configs/grids/ssformer_study.py. As there: epsilon, initial values, width, softmax
over background and polyp. Its loss is Dice alone (criterion of that file); here it is cross-entropy and Dice of the
polyp, so that heads are compared and not losses. RESULTS.md has what was measured.
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.losses.softmax_criterion import nnunet_criterion
from lgrnet.models.backbones import MixTransformer
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import ParallelFusionHead

base = read_config(Path(__file__).with_name("ssformer_b0.py"))

net = builds(
    SSFormer,
    backbone=builds(MixTransformer, name="mit_b0", drop_path=0.0, norm_eps=1e-5),
    decoder=builds(ParallelFusionHead, dim=256, outputs=2, zen_partial=True),
    enlarge="input",
    reinitialise=True,
)
model = builds(PerFrame, net=net, decision="softmax")
criterion = builds(nnunet_criterion)
data, optimizer, schedule = base["data"], base["optimizer"], base["schedule"]
train = builds(base["train"], steps=1400, save_every=1400, eval_every=350)
