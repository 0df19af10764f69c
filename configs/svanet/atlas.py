"""SvANet with ResNet-50 on ATLAS: liver and tumour in slices of MRI.

    python main.py --config_file configs/svanet/atlas.py --trainer_mode train data.root=/data/svanet

As svanet_r50.py, which says what it needs and how. Its epoch is made for 1000 images; how
many the published split has is not known.
Expected mDice of objects below 1 % of the image (abstract of arXiv 2407.07720v4; protocol svanet-size, published_dice):
89.79.
"""

from pathlib import Path

from lgrnet.config import run_file

base = run_file(Path(__file__).with_name("svanet_r50.py"))

model, criterion, data, optimizer, schedule, train = base["on"]("ATLAS", images=1000).values()
