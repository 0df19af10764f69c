"""SvANet with ResNet-50 on PolypGen: polyps.

    python main.py --config_file configs/svanet/polypgen.py --trainer_mode train data.root=/data/svanet

As svanet_r50.py, which says what it needs and how. Its epoch is made for four fifths of its 8037 frames.
Expected mDice of objects below 1 % of the image (abstract of arXiv 2407.07720v4; protocol svanet-size, published_dice):
84.15.
"""

from pathlib import Path

from lgrnet.config import run_file

base = run_file(Path(__file__).with_name("svanet_r50.py"))

model, criterion, data, optimizer, schedule, train = base["on"]("PolypGen", images=8037 * 4 // 5).values()
