"""SvANet with ResNet-50 on SpermHealth: normal and abnormal sperm, all of them below 1 % of the image.

    python main.py --config_file configs/svanet/spermhealth.py --trainer_mode train data.root=/data/svanet

As svanet_r50.py, which says what it needs and how. Its epoch is made for 1000 images; how
many the published split has is not known.
Expected mDice (abstract of arXiv 2407.07720v4, protocol svanet-size, published_dice): 72.58; Table III: mIoU 61.44,
sensitivity 72.50, F2 72.51.
"""

from pathlib import Path

from lgrnet.config import run_file

base = run_file(Path(__file__).with_name("svanet_r50.py"))

model, criterion, data, optimizer, schedule, train = base["on"]("SpermHealth", images=1000).values()
