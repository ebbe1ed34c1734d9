"""One step on several CPU cores: a thread and a part of the batch for each, forward and backward.

torch's own threads share out one operator at a time. For encoders of a laptop's size that leaves half of the second
core idle: most operators are too small to be worth sharing, and in bfloat16 many are not shared at all. Parts of the
batch need no meeting before the gradients are summed.
"""

import copy
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from lwm.models.lazy import LazyExperts
from lwm.models.precision import call_in

LEAST_ROWS = 4
"""A part of fewer pictures is not worth a thread."""

CACHE_ROWS = 8
"""Pictures whose activations in float32 fit a core's cache at the sizes of a laptop: a quarter faster than 64."""

_WHOLE: ContextVar[bool] = ContextVar("whole", default=False)


@contextmanager
def whole_batches() -> Iterator[None]:
    """Nothing is cut meanwhile: who watches torch's operators (a FLOP counter, say) sees those of its own thread."""
    token = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def cores_for(rows: int) -> int:
    """Parts to cut ``rows`` pictures into: one a thread of torch's, none of fewer than :data:`LEAST_ROWS`."""
    if _WHOLE.get():
        return 1
    return max(1, min(torch.get_num_threads(), rows // LEAST_ROWS))


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Torch's operators are not shared among threads meanwhile, as far as the calling thread starts them.

    A thread that uses torch for the first time meanwhile keeps one thread, too.
    """
    kept = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(kept)


def in_parts(run: Callable[[Tensor], Sequence[Tensor]], x: Tensor, model: nn.Module) -> list[Tensor]:
    """Results of ``run(x)`` without gradient, on a CPU a few pictures at a time, in a thread for each core.

    A part's activations stay in a core's cache, and no operator waits for another core.

    Args:
        run: of pictures ``[n, ...]``, tensors with as many rows; it changes nothing.
        x: pictures ``[B, ...]``.
        model: what ``run`` calls; whole batches go to one that is compiled, fetches weights as it needs them, or is
            sharded: each call of that is a meeting of all processes.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if x.device.type != "cpu" or traced or any(map(_wants_whole, model.modules())):
        with torch.no_grad():
            return list(run(x))
    inference, autocast = torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu")

    def still(part: Tensor) -> Sequence[Tensor]:
        # All of these belong to a thread.
        with torch.inference_mode(inference), torch.no_grad(), torch.autocast("cpu", dtype, enabled=autocast):
            return run(part)

    threads = cores_for(len(x))
    parts = x.split(max(1, min(CACHE_ROWS, -(-len(x) // threads))))
    found = [still(part) for part in parts] if threads == 1 else list(_pool(threads).map(still, parts))
    return [torch.cat(pieces) for pieces in zip(*found, strict=True)]


def _wants_whole(part: nn.Module) -> bool:
    # By name: importing torch's sharding takes longer than the rest of this module.
    sharded = any(kind.__name__ == "FSDPModule" for kind in type(part).__mro__)
    return sharded or isinstance(part, LazyExperts) or part._compiled_call_impl is not None


class Cores:
    """Calls one module on several parts of a batch at a time, each in a thread of its own.

    Results and gradients are those of calls one after the other (to rounding: the parts' gradients are summed in
    float32). Weights are the module's own, shared by all threads; nothing is copied but the tree of modules.

    Args:
        module: without state that its forward pass changes; its calls give tuples of tensors, or of None.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._replicas: list[nn.Module] = []

    def __call__(self, dtype: torch.dtype, calls: Sequence[tuple[Any, ...]]) -> list[tuple[Tensor | None, ...]]:
        """Results of ``module(*arguments)`` for the arguments in ``calls``, computed in ``dtype``.

        Args:
            dtype: as :func:`lwm.models.precision.call_in` has it; weights and their gradients stay as they are.
            calls: arguments of each; tensors among them get no gradient.
        """
        if len(calls) == 1:
            return [tuple(call_in(dtype, self.module, *calls[0]))]
        names = [name for name, _ in self.module.named_parameters()]
        work = _Work(self._modules(len(calls)), names, list(calls), dtype)
        weights = [weight for _, weight in self.module.named_parameters()]
        if torch.is_grad_enabled():
            flat = _Parts.apply(work, *weights)
        else:
            flat = [value for part in _run_all(work, weights, grad=False) for value in part.results]
        width = len(flat) // len(calls)
        return [tuple(flat[start : start + width]) for start in range(0, len(flat), width)]

    def _modules(self, count: int) -> list[nn.Module]:
        """The module and copies of its tree that hold the same tensors: a call swaps weights in and out of a tree."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        known = {id(tensor) for tensor in tensors}
        held = {id(tensor) for tree in self._replicas for tensor in (*tree.parameters(), *tree.buffers())}
        if len(self._replicas) < count - 1 or (held and held != known):
            memo = {id(tensor): tensor for tensor in tensors}
            self._replicas = [copy.deepcopy(self.module, dict(memo)) for _ in range(count - 1)]
        for tree in self._replicas[: count - 1]:
            for mine, copied in zip(self.module.modules(), tree.modules(), strict=True):
                _follow(mine, copied)
        return [self.module, *self._replicas[: count - 1]]


def _follow(mine: nn.Module, copied: nn.Module) -> None:
    """Bring a copied module's mode and other plain settings to where they are now."""
    for name, value in mine.__dict__.items():
        if value is None or isinstance(value, (bool, int, float, str)):
            copied.__dict__[name] = value


class _Work(NamedTuple):
    modules: list[nn.Module]
    names: list[str]
    calls: list[tuple[Any, ...]]
    dtype: torch.dtype


class _Part(NamedTuple):
    """What one call gave, and the weights that its graph ends in."""

    results: tuple[Tensor | None, ...]
    leaves: list[Tensor]


class _Parts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: _Work, *weights: Tensor) -> tuple[Tensor | None, ...]:
        """Results of all calls one after the other, without their graphs, which are kept for the backward pass."""
        ctx.parts = _run_all(work, weights, grad=True)
        flat = [value for part in ctx.parts for value in part.results]
        given = tuple(None if value is None else value.detach() for value in flat)
        ctx.mark_non_differentiable(
            *(out for out, value in zip(given, flat, strict=True) if out is not None and not value.requires_grad)
        )
        ctx.set_materialize_grads(False)
        return given

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the weights, of all parts together in the weights' own type."""
        parts: list[_Part] = ctx.parts
        del ctx.parts
        width = len(gradients) // len(parts)
        each = [gradients[start : start + width] for start in range(0, len(gradients), width)]
        found = list(_pool(len(parts)).map(_gradients, parts, each))
        return None, *(_sum(several) for several in zip(*found, strict=True))


def _run_all(work: _Work, weights: Sequence[Tensor], grad: bool) -> list[_Part]:
    cast = [weight.detach().to(work.dtype) for weight in weights]
    wanted = [grad and weight.requires_grad for weight in weights]

    def run(module: nn.Module, arguments: tuple[Any, ...]) -> _Part:
        leaves = [value.detach().requires_grad_(want) for value, want in zip(cast, wanted, strict=True)]
        with torch.set_grad_enabled(grad):
            results = functional_call(module, dict(zip(work.names, leaves, strict=True)), arguments)
        return _Part(tuple(results), leaves)

    return list(_pool(len(work.calls)).map(run, work.modules, work.calls))


def _gradients(part: _Part, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients of a part's weights, None for those that had no say."""
    asked = [(out, g) for out, g in zip(part.results, gradients, strict=True) if out is not None and g is not None]
    leaves = [leaf for leaf in part.leaves if leaf.requires_grad]
    if not asked or not leaves:
        return [None] * len(part.leaves)
    outs, given = zip(*asked, strict=True)
    found = iter(torch.autograd.grad(outs, leaves, given, allow_unused=True))
    return [next(found) if leaf.requires_grad else None for leaf in part.leaves]


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    known = [gradient.float() for gradient in gradients if gradient is not None]
    return functools.reduce(torch.add, known) if known else None


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that run each operator alone: torch's number of threads is one a thread that calls it.

    No work for it may wait for other work in it.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="lwm-core")
    kept, together = torch.get_num_threads(), threading.Barrier(threads)

    def alone() -> None:
        torch.set_num_threads(1)
        # Until all are here, so that none does the work of two.
        together.wait()

    for begun in [pool.submit(alone) for _ in range(threads)]:
        begun.result()
    # Threads begun from now on have as many again as before.
    torch.set_num_threads(kept)
    return pool
