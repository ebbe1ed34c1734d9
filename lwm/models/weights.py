"""Building a model whose weights are about to be loaded: nothing is drawn only to be overwritten."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.overrides import TorchFunctionMode

# Tensor methods, and those of torch.nn.init that reach the mode as a whole (inside them it is off).
_DRAWS = frozenset({"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "bernoulli_"})


def without_initialisation() -> TorchFunctionMode:
    """Context in which modules are built with weights that nobody has drawn: ``with without_initialisation(): ...``.

    Random in-place draws do nothing in it, and torch's global generator stays where it is. Tables and constants
    (positions, norms, buffers that no file holds) are made as ever, so the model is whole once every weight is loaded;
    until then its matrices are whatever the memory held. For this thread only.
    """
    return _SkipDraws()


class _SkipDraws(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Skip draws; do everything else."""
        if getattr(func, "__name__", "") in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
