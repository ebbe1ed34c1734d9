"""Parts of a batch on threads of their own against one plain call."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from lwm.models.cores import CACHE_ROWS, Cores, cores_for, in_parts, one_thread, whole_batches
from lwm.models.encoder import build_encoder
from lwm.models.mae import MaskedAutoencoder, MaskedConfig
from lwm.models.sizes import DecoderConfig
from lwm.signal.recipe import recipe_named
from lwm.tasks.compute import Compute
from lwm.tasks.objectives import PretrainingModel

ROWS = 12


class _Trainer:
    precision = "32-true"


class _Task:
    """What :class:`Compute` looks at in a task."""

    device = torch.device("cpu")
    _trainer = trainer = _Trainer()

    def __init__(self, model: nn.Module) -> None:
        self.model = model


class _Marker:
    """Stands for the class that torch mixes into what it shards."""


_Marker.__name__ = FSDPModule.__name__


@pytest.fixture(autouse=True)
def _two_threads(threads: Callable[[int], None]) -> None:
    threads(2)


def pretraining(mode: str = "drop") -> PretrainingModel:
    torch.manual_seed(0)
    encoder = build_encoder("tiny", recipe_named("small"), mean=-10.0, std=15.0, seed=0)
    mae = MaskedAutoencoder(encoder, DecoderConfig(32, 1, 2), MaskedConfig(mode=mode))  # type: ignore[arg-type]
    return PretrainingModel(mae, latent=False, projection=16)


def loss_of(step: tuple[Tensor | None, ...]) -> Tensor:
    prediction, _, embedding = step
    assert embedding is not None
    # Every pair of embeddings meets, as in a contrast.
    loss = (embedding @ embedding.T).logsumexp(1).mean()
    return loss if prediction is None else loss + prediction.square().mean()


@pytest.mark.parametrize("predicted", [0, 1, 5, ROWS])
@pytest.mark.parametrize("mode", ["drop", "replace"])
def test_loss_and_gradients_are_those_of_one_call(mode: str, predicted: int) -> None:
    model = pretraining(mode)
    twin = copy.deepcopy(model)
    x = torch.randn(ROWS, 1, 64, 64) * 15 - 10
    mask = model.mae.draw(ROWS, torch.Generator().manual_seed(1))
    compute = Compute(plain=False)
    step = compute.step(_Task(model), x, mask, predicted)
    whole = twin(x, mask, predicted)
    for mine, other in zip(step, whole, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other)
    loss_of(step).backward()
    loss_of(whole).backward()
    for (name, mine), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None), name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, atol=2e-6, rtol=1e-4)
    assert predicted < 2 or compute._cores is not None


def test_bfloat16_gradients_arrive_in_float32_and_near_the_float32_ones() -> None:
    model = pretraining()
    twin = copy.deepcopy(model)
    x = torch.randn(ROWS, 1, 64, 64) * 15 - 10
    mask = model.mae.draw(ROWS, torch.Generator().manual_seed(1))
    task = _Task(model)
    task.trainer = type("T", (), {"precision": "bf16-mixed"})()  # type: ignore[assignment]
    loss_of(Compute(plain=False).step(task, x, mask, ROWS)).backward()
    loss_of(twin(x, mask, ROWS)).backward()
    mine = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    other = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
    assert mine.dtype == torch.float32
    assert float(nn.functional.cosine_similarity(mine, other, dim=0)) > 0.99


def test_frozen_weights_get_nothing_and_a_new_tree_is_seen() -> None:
    model = pretraining()
    model.mae.encoder.requires_grad_(False)
    x, mask = torch.randn(ROWS, 1, 64, 64), model.mae.draw(ROWS, torch.Generator().manual_seed(1))
    cores = Cores(model)
    calls = [(x[:6], mask[:6], 6), (x[6:], mask[6:], 6)]
    found = cores(torch.float32, calls)
    loss_of(tuple(None if a is None else torch.cat([a, b]) for a, b in zip(*found, strict=True))).backward()
    assert all(p.grad is None for p in model.mae.encoder.parameters())
    assert model.projector is not None
    assert all(p.grad is not None for p in model.projector.parameters())
    # Another statistics buffer, as a move or a warm start makes one: the copies must not keep the old.
    model.mae.encoder.mean = torch.tensor(50.0)
    with torch.no_grad():
        moved = cores(torch.float32, calls)
        torch.testing.assert_close(moved[1][2], model(*calls[1]).embedding)
    assert not torch.allclose(moved[1][2], found[1][2])


def test_threads_of_the_caller_stay_and_errors_come_through() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            if bool((x > 1).any()):
                raise ValueError("too large")
            return (x * 2,)

    cores = Cores(Picky())
    assert [float(part[0]) for part in cores(torch.float32, [(torch.ones(1),), (torch.zeros(1),)])] == [2.0, 0.0]
    assert torch.get_num_threads() == 2
    with pytest.raises(ValueError, match="too large"):
        cores(torch.float32, [(torch.ones(1),), (2 * torch.ones(1),)])


def test_parts_follow_threads_and_rows() -> None:
    assert [cores_for(rows) for rows in (1, 7, 8, 32)] == [1, 1, 2, 2]
    with whole_batches():
        assert cores_for(32) == 1
    torch.set_num_threads(1)
    assert cores_for(32) == 1


def test_frozen_parts_are_the_whole_batch_without_gradient() -> None:
    encoder = build_encoder("tiny", recipe_named("small"), mean=-10.0, std=15.0, seed=0).eval()
    x, sizes = torch.randn(2 * CACHE_ROWS + 3, 1, 64, 64) * 15 - 10, []

    def run(part: Tensor) -> list[Tensor]:
        sizes.append(len(part))
        return [encoder(part), part.mean((1, 2, 3))]

    features, level = in_parts(run, x, encoder)
    assert sum(sizes) == len(x)
    assert max(sizes) <= CACHE_ROWS
    assert not features.requires_grad
    torch.testing.assert_close(features, encoder(x))
    torch.testing.assert_close(level, x.mean((1, 2, 3)))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        (low,) = in_parts(lambda part: [encoder.forward_features(part)], x, encoder)
        assert low.is_inference()
        torch.testing.assert_close(low, encoder.forward_features(x), atol=0.05, rtol=0.05)
    # What is compiled was compiled for whole batches; what is sharded meets other processes in each call.
    compiled = build_encoder("tiny", recipe_named("small"), seed=0).eval()
    compiled._compiled_call_impl = compiled._call_impl
    for special in (compiled, nn.Sequential(type("FSDPLinear", (nn.Identity, _Marker), {})())):
        sizes.clear()
        in_parts(run, x, special)
        assert sizes == [len(x)]


def test_one_thread_is_given_back() -> None:
    with one_thread(False):
        assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2
