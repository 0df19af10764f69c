"""The protocols that a config names score its evaluation sets."""

import json

import pytest

from lgrnet.config import ConfigError
from lgrnet.engine.parts import check_evaluation
from lgrnet.engine.settings import TrainSettings
from lgrnet.evaluation import LGRNetProtocol, SSFormerTestProtocol, StudyProtocol, SvANetSizeProtocol
from lgrnet.records import list_videos
from tests.engine.runs import run, write_videos


def test_protocols_of_a_config_score_in_one_pass(tmp_path):
    file = tmp_path / "config.py"
    names = [part.__name__ for part in (LGRNetProtocol, SvANetSizeProtocol, StudyProtocol, SSFormerTestProtocol)]
    lines = [
        "from tests.engine.toy_config import *",
        "from lgrnet.config import builds",
        f"from lgrnet.evaluation import {', '.join(names)}",
    ]
    lines += [f"data['protocols'] = dict({', '.join(f'p{i}=builds({name})' for i, name in enumerate(names))})"]
    file.write_text("\n".join(lines))
    videos = write_videos(tmp_path / "data")
    run(tmp_path / "run", videos, "train.steps=2", "train.eval_every=0", "train.save_every=2", file=file)
    reports = sorted((tmp_path / "run" / "eval").glob("*/report.json"))
    found = json.loads(reports[-1].read_text())["sets"][0]
    assert list(found["scores"]) == ["lgrnet", "svanet-size", "study", "ssformer-test"]
    assert found["slices"]["svanet-size"]["10 - 100 %"]["frames"] == 5
    assert found["slices"]["svanet-size"]["no object"]["frames"] == 1
    assert found["slices"]["svanet-size"]["1 - 2 %"] == {"videos": 0, "frames": 0, "scores": None, "intervals": None}


@pytest.mark.parametrize("metric", ["mae", "mae_toy"])
def test_the_best_checkpoint_is_not_the_worst(metric, tmp_path):
    settings = TrainSettings(steps=1, batch_size=1, save_every=1, metric=metric)
    records = list_videos(write_videos(tmp_path))
    with pytest.raises(ConfigError, match=f"train.metric is '{metric}', which is good when low.*choose one of dice,"):
        check_evaluation(settings, {"toy": records}, [LGRNetProtocol(extended=True)])
