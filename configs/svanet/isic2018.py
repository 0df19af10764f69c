"""SvANet with ResNet-50 on ISIC2018T1: skin lesions.

    python main.py --config_file configs/svanet/isic2018.py --trainer_mode train data.root=/data/svanet

As svanet_r50.py, which says what it needs and how. Its epoch is made for 2594 training images of its public split.
Expected mDice of objects below 1 % of the image (abstract of arXiv 2407.07720v4; protocol svanet-size, published_dice):
96.11.
"""

from pathlib import Path

from lgrnet.config import run_file

base = run_file(Path(__file__).with_name("svanet_r50.py"))

model, criterion, data, optimizer, schedule, train = base["on"]("ISIC2018T1", images=2594).values()
