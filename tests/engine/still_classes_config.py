"""still_config.py with masks of class indices: two classes and background by a softmax, 255 is ignored."""

from pathlib import Path

from lgrnet.config import builds, run_file
from lgrnet.losses.softmax_criterion import SoftmaxCriterion

base = run_file(Path(__file__).with_name("still_config.py"))

model = base["tiny"](3, "softmax")
criterion = builds(SoftmaxCriterion, mask_dice=1.0)
data = base["data_of"](base["images"]({1: 1, 2: 2, 255: "ignore"}))
optimizer, schedule, train = base["optimizer"], base["schedule"], base["train"]
