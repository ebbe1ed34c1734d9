"""What happens to each row of a batch while it is generated: its own limit, stops, schema, randomness and stream.

One call of ``generate`` answers several requests that ask for different things. The differences live in one logits
processor, which can end a row by leaving only the end of turn possible, and one streamer, which hands text on as it
comes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lwm.errors import LWMError
from lwm.language.chat import Chat

UNFINISHED = "\ufffd"
"""What a decoder shows for a character whose last bytes have not come yet."""

FAILURES = (
    LWMError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    MemoryError,
    OSError,
)
"""What a model, or a row's processor, can raise while it works."""


class TokenLogProb(NamedTuple):
    """A token's text, its log probability before temperature and schema, and the most probable ones in its place."""

    token: str
    logprob: float
    top: list[tuple[str, float]]


class Sampling(NamedTuple):
    """How a row is generated.

    ``max_tokens``: most tokens. ``temperature``: 0 takes the most probable. ``top_p``: share of probability that is
    drawn from. ``stops``: texts that end the answer and are left out of it. ``top_logprobs``: alternatives kept, None
    for no log probabilities. ``processor``: of a schema, if any.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    processor: Any = None


class Row:
    """One answer on its way.

    Args:
        chat: decodes it.
        sampling: how it is generated.
        rng: draws its tokens where the temperature is above 0.
        emit: takes each piece of text and the log probabilities of its tokens; with the reason once it is finished.
        ended: asked before every token; True gives the row up.
        failed: takes what went wrong with this row alone, which ends it.
    """

    def __init__(
        self,
        chat: Chat,
        sampling: Sampling,
        rng: np.random.Generator,
        emit: Callable[[str, list[TokenLogProb], str | None], None],
        ended: Callable[[], bool],
        failed: Callable[[Exception], None],
    ) -> None:
        self._chat, self.sampling, self._rng = chat, sampling, rng
        self._emit, self._ended, self._failed = emit, ended, failed
        self.ids: list[int] = []
        self.reason: str | None = None
        self.log_probability = 0.0
        """Sum over the tokens so far, the end of turn included (nats)."""
        self.whole = False
        """Whether the model itself ended the answer."""
        self._given = 0
        self._waiting: list[TokenLogProb] = []

    def take(self, token: int, log_probability: float, others: Tensor) -> None:
        """A new token, its log probability and those of all tokens ``[V]`` in its place."""
        if self.reason is not None:
            return
        self.log_probability += log_probability
        if token in self._chat.end_ids:
            self.whole = True
            self.finish("stop")
            return
        self.ids.append(token)
        if self.sampling.top_logprobs is not None:
            self._waiting.append(self._described(token, log_probability, others))
        text = self._chat.decode(self.ids)
        found = [place for stop in self.sampling.stops if (place := text.find(stop)) >= 0]
        if found:
            self.finish("stop", text[: min(found)])
        elif len(self.ids) >= self.sampling.max_tokens:
            self.finish("length", text)
        else:
            self._hand_on(text[: len(text) - _held_back(text, self.sampling.stops)])

    def finish(self, reason: str, text: str | None = None) -> None:
        """Hand on what is left, once."""
        if self.reason is None:
            self.reason = reason
            self._hand_on(self._chat.decode(self.ids) if text is None else text)

    def fail(self, error: Exception) -> None:
        """End the row, and no other, with an error."""
        if self.reason is None:
            self.reason = "failed"
            self._failed(error)

    def check(self) -> None:
        """Give the row up where nobody waits for it any more."""
        if self.reason is None and self._ended():
            self.reason = "cancelled"

    def choose(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """Scores ``[1, V]`` whose largest is the row's next token, after ``tokens [1, S]``."""
        if self.sampling.processor is not None:
            scores = self.sampling.processor(tokens, scores)
        if self.sampling.temperature == 0:
            return scores
        scores = scores / self.sampling.temperature
        if self.sampling.top_p < 1:
            ordered, order = scores.softmax(-1).sort(descending=True)
            outside = ordered.cumsum(-1) - ordered >= self.sampling.top_p
            # The most probable token always stays.
            outside[..., 0] = False
            scores = scores.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -math.inf)
        # The largest of log p plus Gumbel noise is a draw from p: each row has its own temperature and generator,
        # while the batch as a whole just takes the largest.
        noise = self._rng.gumbel(size=scores.shape[-1]).astype(np.float32)
        return scores + torch.from_numpy(noise).to(scores.device)

    def _hand_on(self, text: str) -> None:
        piece = text[self._given :]
        self._given = max(self._given, len(text))
        if piece or self.reason is not None:
            waiting, self._waiting = self._waiting, []
            self._emit(piece, waiting, self.reason)

    def _described(self, token: int, log_probability: float, others: Tensor) -> TokenLogProb:
        count = min(self.sampling.top_logprobs or 0, len(others))
        top = others.topk(count) if count else None
        pairs = [] if top is None else list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        best = [(self._chat.decode([other]), _finite(value)) for other, value in pairs]
        return TokenLogProb(self._chat.decode([token]), _finite(log_probability), best)


class Rows:
    """What ``generate`` gets for a batch: logits processor, streamer and stop in one; see the module.

    Args:
        rows: one a row of the batch.
        end_id: the token that ends a row.
    """

    def __init__(self, rows: Sequence[Row], end_id: int) -> None:
        self.rows, self._end_id = list(rows), end_id
        self._before = torch.empty(0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores ``[B, V]`` after the tokens generated so far ``[B, S]``."""
        self._before = scores.float().log_softmax(-1)
        chosen = scores.clone()
        for number, row in enumerate(self.rows):
            if row.reason is None:
                try:
                    chosen[number] = row.choose(input_ids[number : number + 1], scores[number : number + 1])[0]
                except FAILURES as error:
                    row.fail(error)
            if row.reason is not None:
                chosen[number] = -math.inf
                chosen[number, self._end_id] = 0.0
        return chosen

    def put(self, value: Tensor) -> None:
        """The token of each row ``[B]`` that was chosen."""
        likely = self._before.gather(1, value[:, None].to(self._before.device))[:, 0].tolist()
        for row, token, log_probability, before in zip(self.rows, value.tolist(), likely, self._before, strict=True):
            row.take(token, log_probability, before)

    def end(self) -> None:
        """Nothing: every row ends by itself."""

    def stopped(self) -> bool:
        """Whether no row needs another token."""
        for row in self.rows:
            row.check()
        return all(row.reason is not None for row in self.rows)


def _finite(value: float) -> float:
    """A log probability that JSON can hold; OpenAI's API says -9999 for one that is practically impossible."""
    return max(value, -9999.0)


def _held_back(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of ``text`` that must wait: an unfinished one, or what may become a stop text."""
    whole = text.rstrip(UNFINISHED)
    begun = (n for stop in stops for n in range(1, min(len(stop), len(whole) + 1)) if whole.endswith(stop[:n]))
    return len(text) - len(whole) + max(begun, default=0)
