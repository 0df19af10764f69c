"""A config of the toy parts, that runs in a second.

python main.py --config_file tests/engine/toy_config.py --trainer_mode train data.root=FOLDER
"""

from lgrnet.config import builds
from lgrnet.engine.settings import TrainSettings
from lgrnet.records import list_videos
from tests.engine.toy import ToyClips, ToyCriterion, ToyModel, adamw, halving

model = builds(ToyModel)
criterion = builds(ToyCriterion)
data = dict(
    root="data",
    size=[16, 16],
    train=builds(ToyClips, length=8),
    eval=dict(toy=builds(list_videos, root="${data.root}")),
)
optimizer = builds(adamw, lr=0.01, zen_partial=True)
schedule = builds(halving, every=5, zen_partial=True)
train = builds(TrainSettings, steps=8, batch_size=4, save_every=3, eval_every=4, sizes=[16, 32], workers=0, log_every=2)
