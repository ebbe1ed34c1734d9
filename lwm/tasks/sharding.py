"""Fully sharded training (FSDP2): each process keeps a share of the weights, gradients and optimizer state.

``--trainer.strategy fsdp``, the first FSDP, is not for our tasks: it flattens parameters, so that biases and norms
cannot be told from matrices (they would all decay alike), and Lightning refuses to clip by norm with it. FSDP2 keeps
every parameter's shape: ``--trainer.strategy lwm.tasks.sharding.Sharded``.
"""

from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

# What a model around them or a callback calls, beside ``forward``, on an encoder or a masked autoencoder.
ENTRIES = ("encode_visible", "encode_masked", "forward_features", "forward_intermediates", "encode", "reconstruct")


class Sharded(ModelParallelStrategy):
    """Lightning's FSDP2 over all processes, without tensor parallelism; a checkpoint is one file with whole tensors.

    The task's ``configure_model`` shards its models by :func:`shard`. Runs on GPUs (nccl) and CPUs (gloo) alike, in
    precision 32-true and bf16-mixed.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        """Spread the data over all processes of all nodes before the mesh is made."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard ``model`` in place over a mesh of one dimension.

    Every Transformer block is a unit of its own (gathered when its turn comes, freed after); so is what lies around the
    blocks of an encoder (embedding, positions, norm), of a decoder and of a masked autoencoder; the rest belongs to
    ``model``. Parameters stay float32. Gradients are those of one process with the whole batch where the loss is a mean
    over equally many samples in every process. The first pass must go through ``model`` itself.

    Args:
        model: its parts keep their Transformer blocks in an ``nn.ModuleList`` called ``blocks``.
        mesh: the processes.
    """
    units = [part for part in model.modules() if part is model or hasattr(part, "blocks") or _entries(part)]
    for unit in reversed(units):  # inside out
        for block in getattr(unit, "blocks", ()):
            fully_shard(block, mesh=mesh)
        # The outermost would keep its whole weights after a pass without gradient, and an average could not follow.
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        for name in _entries(unit):
            register_fsdp_forward_method(unit, name)


def _entries(module: nn.Module) -> list[str]:
    return [name for name in ENTRIES if hasattr(module, name)]


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` was applied."""
    return isinstance(model, FSDPModule)


def whole(x: Tensor) -> Tensor:
    """The tensor of which ``x`` may be a shard; a collective: every process must call it."""
    return x.full_tensor() if isinstance(x, DTensor) else x
