"""Questions and answers for the report's page: every kind, about one held-out capture of each protocol."""

from pathlib import Path

from lwm.data.dataset import SpectrogramDataset
from lwm.language.answerers import RFGPTAnswerer
from lwm.language.converse import load_rfgpt
from lwm.language.instructions import KINDS
from lwm.language.score import ask_samples
from lwm.seeding import rng_for


def example_answers(model: Path, data: Path, seed: int) -> list[dict[str, str]]:
    """``question``, ``truth`` and ``answer`` of every kind of question with a short answer, drawn by the seed."""
    dataset = SpectrogramDataset(data, "test")
    codes = dataset.labels["technology"]
    rng = rng_for(seed, "examples")
    chosen = [int(rng.choice((codes == code).nonzero()[0])) for code in sorted(set(codes.tolist()))]
    kinds = [kind for kind in KINDS if kind != "description"]
    rfgpt = load_rfgpt(model)
    scored = ask_samples(RFGPTAnswerer(rfgpt), dataset, chosen, kinds, seed, rfgpt.labels)
    return [{"question": one.pair.question, "truth": one.pair.answer, "answer": one.said} for one in scored]
