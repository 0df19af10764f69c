"""The plain DeepLabV3 with ResNet-50 that SvANet grew out of, on PolypGen.

    python main.py --config_file configs/svanet/deeplabv3_r50.py --trainer_mode train data.root=/data/svanet

All but the model is svanet_r50.py. For another set: data.name=ATLAS model.net.num_classes=3 (its classes and
background). No published number is known to us; RESULTS.md has those of the methods that SvANet is compared with.
"""

from pathlib import Path

from lgrnet.config import run_file

base = run_file(Path(__file__).with_name("svanet_r50.py"))

model = base["deeplabv3"]("PolypGen")
criterion, data, optimizer, schedule, train = (
    base[name] for name in ("criterion", "data", "optimizer", "schedule", "train")
)
