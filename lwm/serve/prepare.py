"""From a request to a job: captures to dB pictures, schema to grammar, lengths held against the context."""

from typing import Any

import torch

from lwm.errors import LWMError
from lwm.language.chat import Turn
from lwm.language.constrain import json_processor
from lwm.language.converse import kind_of, told
from lwm.language.inputs import Seen, spectrogram_of
from lwm.language.rfgpt import RFGPT
from lwm.serve.cache import TokenCache
from lwm.serve.engine import Job, Shown
from lwm.serve.errors import RequestError, bad
from lwm.serve.options import ServeOptions
from lwm.serve.requests import ChatRequest
from lwm.serve.rows import Sampling
from lwm.serve.uploads import Upload

LONGEST_TOKEN = 64
"""Characters that one token of a text may stand for; a longer text is refused without being tokenised."""

LONGEST_KNOWN = 400
"""Characters of a question that is compared with the template library's."""

_DAMAGED = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, OSError, RuntimeError, MemoryError)
"""What decoders of file formats raise on damage that nobody foresaw."""


def prepare(request: ChatRequest, model: RFGPT, cache: TokenCache, options: ServeOptions) -> Job:
    """Everything that can be done, and can fail, before the model has to work.

    The sample rate of a turn's captures is told to the model as ``lwm ask`` does; nothing else that a file says
    (annotations, descriptions) reaches a prompt.

    Raises:
        RequestError: a capture that cannot be used, text with a token of the template, a conversation longer than the
            context, a schema that answers cannot be held to.
    """
    context = context_length(model)
    characters = sum(len(turn.text) for turn in request.turns)
    if characters > LONGEST_TOKEN * context:
        raise _too_long(f"{characters} characters", context)
    shown = [_shown(upload, model, cache) for upload in request.uploads]
    turns = _told(request.turns, shown)
    try:
        ids = model.chat.prompt(turns, model.rf_tokens)
    except LWMError:
        raise bad(
            "a conversation that cannot be put into the model's chat template",
            "perhaps a system turn, then user and assistant in alternation, no empty text, no token of the template",
            param="messages",
            code="invalid_conversation",
        ) from None
    room = context - len(ids)
    wanted = min(options.max_tokens, room) if request.max_tokens is None else request.max_tokens
    if wanted > room or room < 1:
        raise _too_long(f"{len(ids)} tokens with room for an answer of {max(wanted, 1)}", context)
    sampling = Sampling(
        wanted,
        request.temperature,
        request.top_p,
        request.stops,
        request.top_logprobs,
        None if request.schema is None else _processor(request.schema, model),
    )
    question = request.turns[-1].text
    kind = kind_of(question) if len(question) <= LONGEST_KNOWN else None
    return Job(turns, len(ids), shown, sampling, kind, request.seed)


def context_length(model: RFGPT) -> int:
    """Tokens of prompt and answer together that the language model takes."""
    return int(getattr(model.llm.config.get_text_config(), "max_position_embeddings", 1 << 20))


def _too_long(given: str, context: int) -> RequestError:
    return bad(
        f"a conversation of {given}",
        f"at most {context} tokens together, the model's context",
        "ask something shorter, show fewer captures or lower max_tokens",
        param="messages",
        code="context_length_exceeded",
    )


def _shown(upload: Upload, model: RFGPT, cache: TokenCache) -> Shown:
    kept = cache.get(upload.digest)
    if kept is not None:
        return Shown(upload.digest, kept.sample_rate, rf=kept.rf)
    try:
        seen = spectrogram_of(
            upload.data,
            model.recipe,
            sample_rate=upload.sample_rate,
            datatype=upload.datatype,
            kind=upload.kind,
            levels=upload.levels,
        )
    except LWMError as error:
        raise bad(str(error), param="messages", code="invalid_capture") from None
    except _DAMAGED:
        raise bad(
            "a damaged attachment", "a whole file of its format", param="messages", code="invalid_capture"
        ) from None
    return Shown(upload.digest, seen.sample_rate, picture=seen.db)


def _told(turns: list[Turn], shown: list[Shown]) -> list[Turn]:
    """The turns, with what ``lwm ask`` says about captures in front of the text of each that shows any."""
    result, first = [], 0
    for turn in turns:
        # Without annotations: a file's own words are data.
        seen = [Seen(torch.empty(0), each.sample_rate, None, "") for each in shown[first : first + turn.captures]]
        first += turn.captures
        # An empty text stays empty, so that it is refused.
        result.append(turn._replace(text=told(seen) + turn.text) if seen and turn.text.strip() else turn)
    return result


def _processor(schema: dict[str, Any], model: RFGPT) -> Any:
    try:
        return json_processor(schema, model.chat)
    except LWMError as error:
        raise bad(str(error), param="response_format", code="invalid_schema") from None
