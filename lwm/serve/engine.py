"""One thread that owns the model: it gathers what is asked, encodes each capture once and generates in batches."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from secrets import randbits

import torch
from torch import Tensor

from lwm.language.chat import Turn
from lwm.language.converse import confidence_of, device_of
from lwm.language.rfgpt import RFGPT
from lwm.seeding import rng_for
from lwm.serve.cache import Encoded, TokenCache
from lwm.serve.errors import RequestError
from lwm.serve.options import MIB, ServeOptions
from lwm.serve.rows import FAILURES, Row, Rows, Sampling, TokenLogProb

logger = logging.getLogger(__name__)

PICTURES = 8
"""Pictures that go through the tower at once: a batch of requests may show a hundred."""


@dataclass
class Piece:
    """A part of an answer: text, its tokens' log probabilities where asked for, and at the end why it ended, how many
    tokens it has, and how likely it is right, where the model ended it itself."""

    text: str = ""
    tokens: list[TokenLogProb] = field(default_factory=list)
    reason: str | None = None
    completion_tokens: int = 0
    confidence: float | None = None


@dataclass
class Shown:
    """A capture of a conversation: its digest and sample rate (Hz), and its dB picture ``[1, C, F, T]`` or, where it
    was encoded before, its RF tokens ``[n, features]``."""

    digest: str
    sample_rate: float | None = None
    picture: Tensor | None = None
    rf: Tensor | None = None


@dataclass
class Job:
    """One answer to make.

    Args:
        turns: the conversation.
        prompt_tokens: how long it is.
        shown: its captures, in order.
        sampling: how the answer is generated.
        kind: of its question, for the confidence.
        seed: of its randomness; None takes another each time.
        deadline: time of ``time.monotonic`` after which nobody waits for it.
        emit: takes the pieces of the answer, or what went wrong; called in the engine's thread.
    """

    turns: list[Turn]
    prompt_tokens: int
    shown: list[Shown]
    sampling: Sampling
    kind: str | None = None
    seed: int | None = None
    deadline: float = float("inf")
    emit: Callable[[Piece | RequestError], None] = lambda piece: None
    begun: bool = False
    _gone: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody waits for it any more; any thread may say so."""
        self._gone.set()

    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._gone.is_set() or time.monotonic() > self.deadline


class Engine:
    """Answers jobs, several at a time.

    Args:
        model: in evaluation mode from now on; nobody else may use it.
        options: limits.
        context: tokens of prompt and answer together that the language model takes.
    """

    def __init__(self, model: RFGPT, options: ServeOptions, context: int) -> None:
        self.model, self.options, self._context = model.eval(), options, context
        self.cache = TokenCache(int(options.cache_mb * MIB))
        self._confidence = confidence_of(model)
        self.captures_encoded = 0
        """Captures that went through the tower so far."""
        self.batches = 0
        """Calls of ``generate`` so far."""
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._admitted, self._lock = 0, threading.Lock()
        self._closing = threading.Event()
        self.died = threading.Event()
        """Set where the thread ended by itself, of something that no later batch would survive either."""
        self.on_death: Callable[[], None] = lambda: None
        """Called in the engine's thread when it died: whoever runs the server ends it, so that it can be restarted."""
        self._device = device_of(model)
        self._thread = threading.Thread(target=self._run, name="lwm-serve-engine", daemon=True)
        self._thread.start()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among the requests that are answered or wait, from after its body was read to its last byte.

        Raises:
            RequestError: 429, there is none.
        """
        with self._lock:
            if self._admitted >= self.options.batch + self.options.queue:
                raise RequestError(
                    429,
                    "too many requests at once",
                    f"at most {self.options.batch + self.options.queue}",
                    "try again in a second",
                    code="queue_full",
                    headers={"Retry-After": "1"},
                )
            self._admitted += 1
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= 1

    def submit(self, job: Job) -> None:
        """Let a job wait for its batch.

        Raises:
            RequestError: 503, the engine is closed.
        """
        if not self.alive or self._closing.is_set():
            raise RequestError(503, "the server is shutting down", code="shutting_down")
        self._queue.put(job)

    @property
    def alive(self) -> bool:
        """Whether jobs are answered."""
        return self._thread.is_alive()

    def close(self, seconds: float = 10.0) -> None:
        """Answer nothing more: what is being generated is given up, what waits is told so."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        batch: list[Job] = []
        try:
            while not self._closing.is_set():
                batch = self._gather()
                for part in self._split([job for job in batch if not job.over()]):
                    self._answer(part)
        except BaseException as error:
            # For example a PanicException of a library in Rust, which is no Exception. It is logged without its
            # message, which may quote a client.
            _log(error)
            self.died.set()
            self._closing.set()
            for job in batch:
                job.emit(_failed())
            # Python says nothing of a thread that ends like this.
            raise SystemExit(1) from error
        finally:
            self._refuse_waiting()
            if self.died.is_set():
                self.on_death()

    def _gather(self) -> list[Job]:
        """Wait for a job, then a little for others."""
        batch: list[Job] = []
        until = float("inf")
        while len(batch) < self.options.batch and not self._closing.is_set():
            left = until - time.monotonic()
            try:
                # What is there already is taken without waiting, also after the time has passed.
                job = self._queue.get(timeout=left if batch and left > 0 else None, block=not batch or left > 0)
            except Empty:
                break
            if job is None:
                break
            if not batch:
                until = time.monotonic() + self.options.wait_ms / 1e3
            batch.append(job)
        if self._closing.is_set():
            for job in batch:
                job.emit(_closed())
            return []
        return batch

    def _split(self, jobs: list[Job]) -> list[list[Job]]:
        """Batches in which the longest conversation leaves room for the longest answer."""
        parts: list[list[Job]] = []
        for job in jobs:
            if not parts or not self._fits([*parts[-1], job]):
                parts.append([])
            parts[-1].append(job)
        return parts

    def _fits(self, jobs: Sequence[Job]) -> bool:
        longest = max(job.prompt_tokens for job in jobs) + max(job.sampling.max_tokens for job in jobs)
        return longest <= self._context

    def _answer(self, jobs: list[Job]) -> None:
        """Answer a batch; where it fails, those that have not begun are tried one by one, so that nobody's request
        fails because of another's."""
        try:
            self._generate(jobs)
        except FAILURES as error:
            _log(error)
            for job in jobs:
                if len(jobs) > 1 and not job.begun and not job.over():
                    self._answer([job])
                elif not job.over():
                    job.emit(_failed())

    @torch.inference_mode()
    def _generate(self, jobs: list[Job]) -> None:
        self.batches += 1
        jobs, rf, captures = self._encode(jobs)
        if not jobs:
            return
        rows = [self._row(job) for job in jobs]
        control = Rows(rows, min(self.model.chat.end_ids))

        def stopped() -> bool:
            return self._closing.is_set() or control.stopped()

        self.model.generate(
            rf,
            [job.turns for job in jobs],
            max(job.sampling.max_tokens for job in jobs),
            captures=captures,
            logits_processors=[control],
            streamer=control,
            stop=stopped,
        )
        for job, row in zip(jobs, rows, strict=True):
            if row.reason is None:
                job.emit(_closed())

    def _row(self, job: Job) -> Row:
        def emit(text: str, tokens: list[TokenLogProb], reason: str | None) -> None:
            job.begun = True
            free = job.sampling.processor is None
            sure = self._confidence.of(min(row.log_probability, 0.0), job.kind, free) if row.whole else None
            job.emit(Piece(text, tokens, reason, len(row.ids), sure))

        def failed(error: Exception) -> None:
            _log(error)
            job.begun = True
            job.emit(_failed())

        seed = randbits(63) if job.seed is None else job.seed % 2**63
        row = Row(self.model.chat, job.sampling, rng_for(seed, "serve"), emit, job.over, failed)
        return row

    def _encode(self, jobs: Sequence[Job]) -> tuple[list[Job], Tensor, list[list[int]]]:
        """The jobs that somebody still waits for, the RF tokens of every capture that they show, once
        ``[captures, n, features]``, and which of them each shows."""
        shown = {each.digest: each for job in jobs for each in job.shown}
        for digest, each in shown.items():
            # Encoded by a batch before this one, after the job was prepared.
            kept = self.cache.get(digest) if each.rf is None else None
            each.rf = kept.rf if kept is not None else each.rf
        waiting = [each for each in shown.values() if each.rf is None]
        while waiting and not self._closing.is_set():
            wanted = {each.digest for job in jobs if not job.over() for each in job.shown}
            waiting = [each for each in waiting if each.digest in wanted]
            self._encode_some(waiting[:PICTURES])
            waiting = waiting[PICTURES:]
        found = {digest: each.rf for digest, each in shown.items() if each.rf is not None}
        alive = []
        for job in jobs:
            if all(each.digest in found for each in job.shown):
                alive.append(job)
            elif not job.over():
                job.emit(_closed())
        place = {digest: number for number, digest in enumerate(found)}
        empty = torch.zeros(0, self.model.rf_tokens, 1, device=self._device)
        rf = torch.stack(list(found.values())) if found else empty
        return alive, rf, [[place[each.digest] for each in job.shown] for job in alive]

    def _encode_some(self, new: Sequence[Shown]) -> None:
        """Put pictures through the tower and keep what comes out."""
        if not new:
            return
        pictures = torch.cat([each.picture for each in new if each.picture is not None])
        found = self.model.encode(pictures.to(self._device))
        self.captures_encoded += len(new)
        for each, rf in zip(new, found, strict=True):
            each.rf, each.picture = rf, None
            self.cache.put(each.digest, Encoded(rf, each.sample_rate))

    def _refuse_waiting(self) -> None:
        while True:
            try:
                job = self._queue.get_nowait()
            except Empty:
                return
            if job is not None:
                job.emit(_closed())


def _failed() -> RequestError:
    return RequestError(500, "the model failed on this request", code="model_failed")


def _closed() -> RequestError:
    return RequestError(503, "the server is shutting down", code="shutting_down")


def _log(error: BaseException) -> None:
    """Where it happened, without the message: it may quote what a client sent."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("a batch failed: %s in %s, line %s", type(error).__name__, frame.name, frame.lineno)
