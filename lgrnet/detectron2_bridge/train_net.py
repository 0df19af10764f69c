"""Trains and evaluates with detectron2's trainer from a yaml config.

    python -m lgrnet.data.phantom --root data/phantom
    python -m lgrnet.detectron2_bridge.train_net --config-file lgrnet/detectron2_bridge/configs/phantom.yaml \
        [--resume] [--eval-only] [--num-gpus N] [KEY VALUE ...]

Ends with status 2 and one line where a user can mend what is wrong. Lazy configs need no script of ours: give them to
detectron2's own tools/lazyconfig_train_net.py.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.utils import comm
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lgrnet.checkpoint.disk import CheckpointError
from lgrnet.checkpoint.official import OfficialWeightsError
from lgrnet.config import ConfigError
from lgrnet.detectron2_bridge.agreement import disagreements
from lgrnet.detectron2_bridge.catalog import check_names, register_layouts
from lgrnet.detectron2_bridge.config import add_lgrnet_config, merge_config
from lgrnet.detectron2_bridge.evaluator import ClipEvaluator
from lgrnet.detectron2_bridge.loaders import TrainLoader, build_test_loader, build_train_loader
from lgrnet.detectron2_bridge.solver import build_optimizer
from lgrnet.records import DataError

USER_ERRORS = (ConfigError, DataError, CheckpointError, OfficialWeightsError, MemoryError, FloatingPointError)
"""What a user can mend: the message is enough, a traceback would hide it."""


class ClipTrainer(DefaultTrainer):
    """detectron2's DefaultTrainer with our loaders, optimizer and evaluator."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """MODEL.META_ARCHITECTURE, on MODEL.DEVICE."""
        with _mistakes_of_config("MODEL"):
            return super().build_model(cfg)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """The clips of DATASETS.TRAIN."""
        with _mistakes_of_config("INPUT, DATASETS or SOLVER.IMS_PER_BATCH"):
            return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """The videos of one data set."""
        with _mistakes_of_config("INPUT or DATASETS"):
            return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """AdamW as LGRNet's training has it."""
        with _mistakes_of_config("SOLVER"):
            return build_optimizer(cfg, model)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> ClipEvaluator:
        """Dice and IoU; the report goes to <OUTPUT_DIR>/inference/<data set>."""
        return ClipEvaluator(dataset_name, Path(cfg.OUTPUT_DIR, "inference", dataset_name))


def setup(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """The frozen config of a file and of KEY VALUE pairs; registers the known data sets below DATASETS.ROOT.

    Raises ConfigError for keys and values that do not fit, a model or backbone that is not registered, weights and
    a device that are not there, and data sets of another number of classes; DataError for data sets that are not
    registered.
    """
    cfg = get_cfg()
    add_lgrnet_config(cfg)
    merge_config(cfg, config_file, list(opts))
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
    ):
        if name not in registry:
            near = difflib.get_close_matches(name, [known for known, _ in registry], n=3, cutoff=0.0)
            raise ConfigError(f"{key} is {name!r}, which is not registered; the nearest are {', '.join(near)}")
    register_layouts(cfg.DATASETS.ROOT)
    for name in check_names((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        classes = MetadataCatalog.get(name).get("thing_classes", None)
        if classes is not None and len(classes) != cfg.MODEL.NUM_CLASSES:
            raise ConfigError(
                f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but data set {name!r} has {len(classes)} "
                f"({', '.join(classes[:8])}), background not counted"
            )
    if cfg.TEST.AUG.ENABLED:
        raise ConfigError("TEST.AUG.ENABLED is True; there is no test-time augmentation of clips: leave it False")
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but PyTorch sees no GPU here; add MODEL.DEVICE cpu")
    weights = cfg.MODEL.WEIGHTS
    # What follows a "?" is for detectron2's checkpointer: model.pth?matching_heuristics=True
    if weights and "://" not in weights and not Path(weights.partition("?")[0]).is_file():
        raise ConfigError(f"MODEL.WEIGHTS is {weights}, but there is no such file; leave it empty for random weights")
    cfg.freeze()
    return cfg


def main(options: argparse.Namespace) -> dict | None:
    """One process of a training or an evaluation; returns the scores that were last measured, on rank 0."""
    cfg = setup(options.config_file, options.opts)
    default_setup(cfg, options)
    if options.eval_only:
        model = ClipTrainer.build_model(cfg)
        checkpointer = DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=options.resume)
        scores = ClipTrainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, scores)
        return scores
    trainer = ClipTrainer(cfg)
    trainer.resume_or_load(resume=options.resume)
    return trainer.train()


@contextmanager
def _mistakes_of_config(section: str) -> Iterator[None]:
    """What a part of a model or a loader does not take is a mistake in this section of the config."""
    try:
        yield
    except USER_ERRORS:
        raise
    except ValueError as error:
        raise ConfigError(f"the config is not usable, see {section}: {error}") from error


def run(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the status of the process."""
    options = default_argument_parser().parse_args(arguments)
    try:
        if not options.config_file:
            raise ConfigError(
                "no config file was given; add --config-file lgrnet/detectron2_bridge/configs/phantom.yaml"
            )
        cfg = setup(options.config_file, options.opts)  # mistakes are told once, before there are several processes
        for words in disagreements(cfg):
            warnings.warn(f"{cfg.MODEL.WEIGHTS}: {words}", stacklevel=2)
        if options.num_gpus > 1 and cfg.MODEL.DEVICE == "cpu" and not options.eval_only:
            raise ConfigError(
                f"--num-gpus {options.num_gpus} with MODEL.DEVICE cpu: detectron2 trains one process there"
            )
        if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu" and not options.eval_only:
            raise ConfigError("SOLVER.AMP.ENABLED with MODEL.DEVICE cpu: detectron2 has mixed precision on GPUs only")
        launch(
            main,
            options.num_gpus,
            num_machines=options.num_machines,
            machine_rank=options.machine_rank,
            dist_url=options.dist_url,
            args=(options,),
        )
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run())
