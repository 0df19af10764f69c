"""SegFormer's head ("SeD", as in SSFormer's reproduction study) on MiT-B0, otherwise ssformer_b0.py, in the same time.

    python main.py --config_file configs/polypgen_stills/sed_b0.py --trainer_mode train data.root=/data/polypgen

Everything but the head and the number of steps is study_head_b0.py. RESULTS.md has what was measured.
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.models.backbones import MixTransformer
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import SegFormerDecoder

base = read_config(Path(__file__).with_name("study_head_b0.py"))

net = builds(
    SSFormer,
    backbone=builds(MixTransformer, name="mit_b0", drop_path=0.0, norm_eps=1e-5),
    decoder=builds(SegFormerDecoder, dim=256, outputs=2, channel_dropout=True, zen_partial=True),
    enlarge="input",
    reinitialise=True,
)
model = builds(PerFrame, net=net, decision="softmax")
criterion, data, optimizer, schedule = (base[name] for name in ("criterion", "data", "optimizer", "schedule"))
train = builds(base["train"], steps=1800, save_every=1800, eval_every=450)
