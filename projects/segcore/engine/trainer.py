"""Trainer of all projects: Detectron2's, on any device, with exact resume."""

import logging
import os
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from segcore.checkpoint import SafeCheckpointer
from segcore.data.mappers import build_train_mapper
from segcore.engine.best_checkpoint import BestCheckpoint, EarlyStop, StopWithoutBetter
from segcore.engine.curves import CurvesPicture
from segcore.engine.ema import WeightAverage
from segcore.engine.freezing import EvaluationMode, freeze_stages
from segcore.engine.logs import FILE_ONLY
from segcore.engine.metrics_file import MetricsFile
from segcore.engine.randomness import require_deterministic_algorithms, resolve_seed
from segcore.engine.test_loader import build_test_loader
from segcore.engine.train_loader import build_train_loader
from segcore.engine.train_loop import TrainLoop, autocast_dtype
from segcore.errors import ConfigError
from segcore.evaluation import SemanticSegmentorWithTTA, build_evaluator
from segcore.meta_arch import result_switches
from segcore.precision import in_precision
from segcore.solver import build_lr_scheduler, build_optimizer

logger = logging.getLogger(__name__)

# Hooks after the checkpoint of a step, repeated if the process was killed before their end.
REPEATABLE = (hooks.EvalHook, BestCheckpoint, MetricsFile, CurvesPicture, StopWithoutBetter)


class Trainer(DefaultTrainer):
    """Detectron2's ``DefaultTrainer`` with its hooks, periods and ``resume_or_load``, except:

    * training runs on the CPU as well, in one process or several with gloo;
    * a run that was stopped and resumed gives the same losses as an unbroken one: the checkpoint
      holds optimizer, schedule, loss scale and seed, and all random numbers follow from the seed
      and the iteration (a negative ``SEED`` draws one and keeps it);
    * so does its ``metrics.json``, except for times and memory (see ``MetricsFile``);
    * a model may offer ``training_hooks()``, a list of hooks of its own;
    * stages of the backbone can be frozen, the weights averaged, the best ones kept;
    * the training data are opened when ``train`` starts, at the iteration it starts from.
    """

    def __init__(self, cfg: CfgNode):
        # Not DefaultTrainer's own constructor: it needs CUDA for AMP and for several processes.
        TrainerBase.__init__(self)
        self.keeps_seed_of_checkpoint = cfg.SEED < 0
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        cfg = _with_seed(cfg, resolve_seed(cfg.SEED))
        if cfg.DETERMINISTIC:
            require_deterministic_algorithms()
        model = self.build_model(cfg)
        self.frozen_modules = freeze_stages(model, cfg.MODEL.BACKBONE.FREEZE)
        self.ema = _weight_average(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        device = next(model.parameters()).device
        _require_backend_for(device.type)
        model = _distributed(model, device)
        self._trainer = TrainLoop(
            model,
            optimizer,
            dtype=autocast_dtype(cfg, device.type),
            seed=cfg.SEED,
            accumulate=cfg.SOLVER.ACCUMULATE,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = SafeCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            metadata=MetadataCatalog.get(cfg.DATASETS.TRAIN[0]),
            config=cfg,
            saved_model=self.ema and self.ema.averaged,
            trainer=weakref.proxy(self),
            **({"ema": self.ema} if self.ema else {}),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.is_resumed = False
        self.metrics_file = MetricsFile(
            Path(cfg.OUTPUT_DIR, "metrics.json") if comm.is_main_process() else None,
            cfg.TEST.EVAL_PERIOD,
        )
        self.register_hooks(self.build_hooks())

    @property
    def evaluated_model(self) -> nn.Module:
        """The model with the weights that are evaluated and saved: averaged, if they are."""
        return self.ema.averaged if self.ema else self.model

    def build_hooks(self) -> list[HookBase]:
        """Return Detectron2's default hooks and those of this project, in the order of a step."""
        cfg, model = self.cfg, getattr(self.model, "module", self.model)
        offered = getattr(model, "training_hooks", list)
        best = self._best_checkpoint()
        stop = best and cfg.TEST.BEST_CHECKPOINT.PATIENCE
        on_main = comm.is_main_process()
        in_order = [
            hooks.IterationTimer(),
            EvaluationMode(self.frozen_modules),
            hooks.CallbackHook(after_step=lambda _: self.ema.update()) if self.ema else None,
            hooks.LRScheduler(),
            self._precise_bn(),
            # On all processes: they may have parts of the optimizer's state.
            hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD),
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate),
            best,
            hooks.PeriodicWriter(self.build_writers()) if on_main else None,
            *offered(),
            self.metrics_file,
            CurvesPicture(self.metrics_file.path, cfg.TEST.EVAL_PERIOD) if on_main else None,
            StopWithoutBetter(best, stop, self._save_checkpoint) if stop else None,
        ]
        return [hook for hook in in_order if hook is not None]

    def _evaluate(self) -> dict[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.evaluated_model)
        return self._last_eval_results

    def _save_checkpoint(self, name: str) -> None:
        self.checkpointer.save(name, iteration=self.iter)

    def _best_checkpoint(self) -> BestCheckpoint | None:
        keys = self.cfg.TEST.BEST_CHECKPOINT
        if not keys.ENABLED:
            return None
        if not self.cfg.DATASETS.TEST:
            raise ConfigError(
                "DATASETS.TEST: expected data to evaluate, as TEST.BEST_CHECKPOINT is enabled"
            )
        return BestCheckpoint(
            self.checkpointer.save_weights,
            self.metrics_file.path,
            metric=keys.METRIC,
            mode=keys.MODE,
            eval_period=self.cfg.TEST.EVAL_PERIOD,
        )

    def _precise_bn(self) -> HookBase | None:
        cfg = self.cfg.clone()
        if not cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(self.model):
            return None
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # the loader lives as long as the training
        loader = self.build_train_loader(cfg)
        return hooks.PreciseBN(
            cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER
        )

    def build_writers(self) -> list[EventWriter]:
        os.makedirs(self.cfg.OUTPUT_DIR, exist_ok=True)
        return [CommonMetricPrinter(self.max_iter), TensorboardXWriter(self.cfg.OUTPUT_DIR)]

    def resume_or_load(self, resume: bool = True) -> None:
        super().resume_or_load(resume)
        self.is_resumed = resume

    def before_train(self) -> None:
        super().before_train()
        if self.is_resumed:
            self.metrics_file.restore(self.storage, self.start_iter)
            if 0 < self.start_iter < self.max_iter:
                self._finish_step(self.start_iter - 1)

    def after_train(self) -> None:
        # When a finished run is resumed, v0.6 counts one iteration too many.
        self.iter = min(self.iter, self.max_iter)
        super().after_train()

    def train(self) -> Any:
        """Train from ``start_iter`` to ``SOLVER.MAX_ITER``; evaluate as ``TEST`` says.

        ``TEST.EXPECTED_RESULTS`` are those of the last iteration: a training that ends early is not
        held against them.
        """
        self.data_loader = self.build_train_loader(self.cfg, self.start_iter)
        try:
            return super().train()
        except EarlyStop:
            return None

    def state_dict(self) -> dict[str, Any]:
        # v0.6 leaves out what the inner trainer holds: optimizer and loss scale.
        state = TrainerBase.state_dict(self)
        state["_trainer"] = self._trainer.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])
        if self.keeps_seed_of_checkpoint:
            self.cfg = _with_seed(self.cfg, self._trainer.seed)
        self._trainer.seed = self.cfg.SEED

    def _finish_step(self, iteration: int) -> None:
        """Repeat what follows the checkpoint of a step if the process was killed before it."""
        if comm.all_gather(self.metrics_file.is_complete(iteration))[0]:
            return
        self.iter = self.storage.iter = iteration
        for hook in self._hooks:
            if isinstance(hook, REPEATABLE):
                hook.after_step()
        self.iter = self.storage.iter = self.start_iter

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        # Detectron2's shows hundreds of lines on the terminal.
        model = build_model(cfg)
        logger.info("Model:\n%s", model, extra=FILE_ONLY)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iter: int = 0) -> DataLoader:
        return build_train_loader(cfg, build_train_mapper(cfg), start_iter)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate in the precision ``TEST.PRECISION``."""
        return super().test(cfg, in_precision(model, cfg.TEST.PRECISION), evaluators)

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Evaluate semantic results with test-time augmentation; result names end with "_TTA"."""
        cfg = cfg.clone()
        cfg.defrost()
        switches = result_switches(cfg)
        switches.SEMANTIC_ON, switches.INSTANCE_ON, switches.PANOPTIC_ON = True, False, False
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, SemanticSegmentorWithTTA(cfg, model), evaluators)
        return {f"{name}_TTA": result for name, result in results.items()}


def _distributed(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap the model for a job of several processes; its gradients are views of the buckets."""
    # On a CPU, gradients of channels-last convolutions have other strides, and are copied.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    with warnings.catch_warnings():
        # The argument that takes the place of broadcast_buffers is not in PyTorch 2.10.
        warnings.simplefilter("ignore", FutureWarning)
        return create_ddp_model(
            model,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            device_ids=None if device.type == "cpu" else [comm.get_local_rank()],
        )


def _weight_average(cfg: CfgNode, model: nn.Module) -> WeightAverage | None:
    keys = cfg.SOLVER.EMA
    return WeightAverage(model, decay=keys.DECAY, warmup=keys.WARMUP) if keys.ENABLED else None


def _with_seed(cfg: CfgNode, seed: int) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = seed
    cfg.freeze()
    return cfg


def _require_backend_for(device_type: str) -> None:
    if comm.get_world_size() > 1 and device_type == "cpu" and dist.get_backend() == "nccl":
        raise ValueError(
            "MODEL.DEVICE is cpu, but the processes were started for GPUs; "
            "hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on the CPU with several processes"
        )
