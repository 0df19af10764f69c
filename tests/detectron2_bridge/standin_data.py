"""The part of the stand-in for detectron2 that is about data, evaluation and training; see `standin.py`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sized
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader


class _DatasetCatalog(dict):
    """Name -> a function that gives the dicts of a data set."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        if name in self:
            raise AssertionError(f"Dataset '{name}' is already registered!")
        self[name] = func

    def get(self, name: str) -> list[dict]:
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self)}")
        return self[name]()

    def list(self) -> list[str]:
        return [*self]

    def remove(self, name: str) -> None:
        self.pop(name)


class Metadata(SimpleNamespace):
    """Facts about a data set."""

    def set(self, **facts: Any) -> Metadata:
        vars(self).update(facts)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class _MetadataCatalog(dict):
    """Name -> Metadata, made when asked for."""

    def get(self, name: str) -> Metadata:
        return self.setdefault(name, Metadata(name=name))

    def remove(self, name: str) -> None:
        self.pop(name)


class DatasetEvaluator:
    """reset, process every batch, evaluate."""

    def reset(self) -> None: ...

    def process(self, inputs: list[dict], outputs: list[dict]) -> None: ...

    def evaluate(self) -> dict | None: ...


def build_detection_train_loader(
    dataset: Any, *, mapper=None, sampler=None, total_batch_size: int, aspect_ratio_grouping=True, num_workers=0, **more
) -> DataLoader:
    """Lists of dicts without end; the stand-in loads in this process."""
    return DataLoader(_mapped(dataset, mapper), total_batch_size, sampler=sampler, collate_fn=list, drop_last=True)


def build_detection_test_loader(dataset: Any, *, mapper=None, sampler=None, batch_size=1, num_workers=0, **more):
    """Lists of dicts, once."""
    return DataLoader(_mapped(dataset, mapper), batch_size, sampler=sampler, collate_fn=list)


def _mapped(dataset: Any, mapper: Callable | None) -> Any:
    if mapper is None or not isinstance(dataset, Sized):
        return dataset
    return _Mapped(dataset, mapper)


class _Mapped(torch.utils.data.Dataset):
    def __init__(self, dataset: Any, mapper: Callable):
        self.dataset, self.mapper = dataset, mapper

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.mapper(self.dataset[index])


def inference_on_dataset(model: Callable, data_loader: Iterable[list[dict]], evaluator: DatasetEvaluator) -> dict:
    """The model on every batch, in eval mode, and what the evaluator says."""
    evaluator.reset()
    model.eval()
    with torch.no_grad():
        for inputs in data_loader:
            evaluator.process(inputs, model(inputs))
    return evaluator.evaluate() or {}


def maybe_add_gradient_clipping(cfg: Any, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        raise NotImplementedError("the stand-in clips no gradients of single parameters")
    return optimizer


def print_csv_format(results: OrderedDict) -> None: ...


CATALOGS = {"DatasetCatalog": _DatasetCatalog(), "MetadataCatalog": _MetadataCatalog()}
LOADERS = {
    "build_detection_train_loader": build_detection_train_loader,
    "build_detection_test_loader": build_detection_test_loader,
}
MODULES: dict[str, dict[str, Any]] = {
    "detectron2.data": {**CATALOGS, **LOADERS},
    "detectron2.evaluation": {
        "DatasetEvaluator": DatasetEvaluator,
        "inference_on_dataset": inference_on_dataset,
        "print_csv_format": print_csv_format,
    },
    "detectron2.solver": {},
    "detectron2.solver.build": {"maybe_add_gradient_clipping": maybe_add_gradient_clipping},
}
"""Module -> the names in it."""
