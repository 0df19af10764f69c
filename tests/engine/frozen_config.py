"""The toy config with a backbone that joins after five steps.

python main.py --config_file tests/engine/frozen_config.py --trainer_mode train data.root=FOLDER
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.engine.settings import TrainSettings
from tests.engine.toy import ToyWithBackbone

base = read_config(Path(__file__).with_name("toy_config.py"))

model = builds(ToyWithBackbone)
criterion, data, optimizer, schedule = (base[part] for part in ("criterion", "data", "optimizer", "schedule"))
train = builds(TrainSettings, builds_bases=(base["train"],), populate_full_signature=False, freeze_steps=5)
