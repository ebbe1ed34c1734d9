"""RF-GPT in fully sharded training: the language model's layers are units like the encoder's blocks."""

from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from lwm.tasks.sharding import shard


def shard_rfgpt(model: Any, mesh: DeviceMesh) -> None:
    """Shard an RF-GPT in place: every layer of the language model, every block of the tower, and the rest.

    Transformers keeps a decoder's layers in an ``nn.ModuleList`` called ``layers``; :func:`lwm.tasks.sharding.shard`
    knows ``blocks``. Embedding, output layer and adapter belong to the model itself, through which the pass goes.

    Args:
        model: to be sharded.
        mesh: the processes, one dimension.
    """
    for layer in decoder_layers(model.llm):
        fully_shard(layer, mesh=mesh)
    shard(model, mesh)


def decoder_layers(llm: Any) -> list[nn.Module]:
    """Transformer layers of a language model of transformers, in order."""
    return list(getattr(llm.get_decoder(), "layers", ()))
