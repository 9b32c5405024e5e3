"""Devices and processes, by accelerate; the only module that imports it."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from pushforward.core.errors import RecipeError
from pushforward.core.model import Model


class Processes:
    """What one process knows of all of them: its rank, its device, and how to add up over them."""

    def __init__(self, device: str | None = None, precision: str = "float32") -> None:
        try:
            cpu = device is not None and torch.device(device).type == "cpu"
        except RuntimeError as error:
            raise RecipeError(f"no device is called '{device}': use cpu, cuda, cuda:0 or mps") from error
        if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise RecipeError(f"device '{device}' was asked for, and this machine has no CUDA device")
        cpu = cpu or not (torch.cuda.is_available() or torch.backends.mps.is_available())
        # a turn trains some of the parameters only
        handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
        # accelerate's precision is one for the whole process, ours one for each fit: see autocast
        self.accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=handlers)
        self.precision = precision
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        if self.world > 1:
            # left to the interpreter's end, the threads of the group abort the process
            atexit.unregister(_leave)
            atexit.register(_leave)
        self.device = torch.device(device) if device and self.world == 1 else self.accelerator.device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def prepare(self, model: Model) -> nn.Module:
        """``model`` on its device, wrapped for data-parallel training where there are several processes."""
        model.to(self.device)
        if self.world == 1 or not any(p.requires_grad for p in model.parameters()):
            return model
        return self.accelerator.prepare_model(model)

    def autocast(self) -> Any:
        """The context in which losses are computed."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    @contextlib.contextmanager
    def products(self) -> Iterator[None]:
        """The context of a whole training run: with ``medium`` torch may round the factors of float32 matrix products inside,
        to 11 significant bits on CUDA (TF32), to 8 on CPUs that are quicker with bf16; sums stay in float32.

        What that costs: on the CPUs measured (without AMX) nothing is rounded, and log densities of flows differ from
        float64 by 1e-5 to 4e-5 nats as in float32. With factors rounded by hand they differ by 0.006 to 0.02 (TF32) and 0.05
        to 0.09 (bf16); autocast to bf16 costs 0.04 to 0.2. Convolutions have settings of their own (torch.backends.cudnn), and
        cuDNN's use TF32 by default. The setting is one of the whole process, and as the caller had it afterwards.
        """
        if self.precision != "medium":
            yield
            return
        try:
            before = torch.get_float32_matmul_precision()
        except RuntimeError:  # the caller has set the backends one by one, and only they are asked
            before = "highest"
        backends: tuple[Any, ...] = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
        each = [(b, b.fp32_precision) for b in backends if hasattr(b, "fp32_precision")]
        try:
            torch.set_float32_matmul_precision("medium")
            yield
        finally:
            torch.set_float32_matmul_precision(before)
            for backend, precision in each:
                backend.fp32_precision = precision

    def accumulating(self, module: nn.Module, on: bool) -> Any:
        """Gradients are not synchronised inside."""
        return self.accelerator.no_sync(module) if on and self.world > 1 else contextlib.nullcontext()

    def sum(self, value: Tensor) -> Tensor:
        """Summed over processes."""
        if self.world == 1:
            return value
        return self._sparse_sum(value.coalesce()) if value.is_sparse else self.accelerator.reduce(value, "sum")

    def _sparse_sum(self, value: Tensor) -> Tensor:
        """The sum of sparse vectors of counts, each filled up with counts of 0 to the length of the longest."""
        every = self.accelerator.pad_across_processes, self.accelerator.gather
        index, count = (every[1](every[0](part.contiguous())) for part in (value.indices()[0], value.values()))
        there = count != 0
        return torch.sparse_coo_tensor(index[there][None], count[there], value.shape, check_invariants=False).coalesce()

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process: what all must do together, such as stopping, is decided here."""
        return flag if self.world == 1 else float(self.sum(torch.tensor(float(flag), device=self.device))) > 0

    def mean(self, value: float) -> float:
        """Over processes."""
        if self.world == 1:
            return value
        return float(self.sum(torch.tensor(value, dtype=torch.float32, device=self.device))) / self.world

    def barrier(self) -> None:
        """Wait for all."""
        self.accelerator.wait_for_everyone()


def _leave() -> None:
    if torch.distributed.is_initialized():
        gc.collect()  # an error's traceback may hold a wrapped model, and that its group
        torch.distributed.destroy_process_group()


def world() -> tuple[int, int]:
    """Rank and number of processes as the launcher told the environment."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def resolve_precision(asked: str, model: Model, device: str | None) -> str:
    """What was asked for; for ``auto`` bf16 where the model has convolutions and the hardware multiplies bf16 natively,
    else float32."""
    if asked != "auto":
        return asked
    if not any(isinstance(m, nn.Conv2d) for m in model.modules()):
        return "float32"
    kind = torch.device(device).type if device else ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    if kind == "cpu":
        # bit of AVX-512-BF16 or AMX: without them bf16 is emulated and slow
        has = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return "bf16" if has() else "float32"
    return "float32"


@contextlib.contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Global random states seeded inside and restored after, so that a caller's own numbers do not change."""
    cpu, numpys, plain = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (a user's own model may draw from it)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        np.random.set_state(numpys)  # noqa: NPY002
        random.setstate(plain)
        if devices:
            torch.cuda.set_rng_state_all(devices)
