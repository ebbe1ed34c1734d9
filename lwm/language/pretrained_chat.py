"""Any tokenizer of transformers that has a chat template, as RF-GPT's chat."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

from lwm.errors import ConfigError, ModelError
from lwm.language.chat import RF, TokenizedChat, Turn, Turns, align, as_turns, read_tokenizer, shown

_KEYS = {"kind", "tokenizer", "template", "special", "options"}
# Words that no template writes by itself and no template changes: what stands between them is the template's own.
_PROBES = ("Qx1zvQ", "Qx2zvQ", "Qx3zvQ")
# Llama 3.2's template and others tell the model today's date. A prompt must be the same on every day, or no answer
# could be made again; this is the date that Llama's own template falls back to.
_FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}\n"


class PretrainedChat(TokenizedChat):
    """A tokenizer that was pretrained with its language model, and its chat template.

    ``<rf>`` is added to the vocabulary; its number may lie beyond the language model's embeddings, which never see
    it. The template's own words around answers are found by rendering known words, so that no family is named here.
    It is a :class:`~lwm.language.chat.Chat`.

    Args:
        tokenizer: a tokenizer of transformers, of the kind that the library tokenizers runs.
        template: chat template in jinja; None takes the tokenizer's own.
        options: variables for the template, for example ``{"enable_thinking": False}``.

    Raises:
        ModelError: no such tokenizer, no chat template, or one in which no special token ends an answer.
    """

    def __init__(self, tokenizer: Any, template: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        from tokenizers import AddedToken, Tokenizer

        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ModelError(f"a tokenizer {type(tokenizer).__name__}", "one that the library tokenizers runs")
        self.template = template if template is not None else _own_template(tokenizer)
        self.options = dict(options or {})
        self._special = {
            name: str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)
        }
        self._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        # A text's length is the chat's business; a tokenizer.json may carry the padding of somebody's training.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if self._tokenizer.token_to_id(RF) is None:
            self._tokenizer.add_special_tokens([AddedToken(RF, special=True, normalized=False)])
        self._numbered()
        self._renderer = _wrapped(self._tokenizer, self._special)
        self._learn_template()

    def _numbered(self) -> None:
        """Take the numbers of special tokens from the vocabulary."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.rf_id: int = vocabulary.pop(RF)
        self.vocab_size: int = max(vocabulary.values()) + 1
        added = self._tokenizer.get_added_tokens_decoder().items()
        used = {number: token.content for number, token in added if token.special or token.content in self.template}
        self._reserved = used | {vocabulary[text]: text for text in self._special.values() if text in vocabulary}
        pad = self._special.get("pad_token", self._special.get("eos_token"))
        if pad not in vocabulary:
            raise ModelError("a tokenizer without padding token and end of text", "one of them")
        self.pad_id: int = vocabulary[pad]

    def _learn_template(self) -> None:
        """Find the token that ends an answer, and the words with which the template marks turns."""
        asked, answered, again = _PROBES
        text = self._render([Turn("user", asked), Turn("assistant", answered), Turn("user", again)], opened=True)
        pieces = re.split("|".join(_PROBES), text)
        if len(pieces) != 4:
            raise ModelError(
                f"a chat template that writes {text!r:.200}", "one that keeps what is said, once and whole"
            )
        names = sorted(self._reserved.values(), key=len, reverse=True)
        found = [name for name in names if pieces[2].startswith(name)]
        if not found:
            raise ModelError(
                f"a chat template that writes {pieces[2]!r:.80} after an answer", "a special token as the end of a turn"
            )
        self._end = found[0]
        own = self._special.get("eos_token")
        ends = [number for number, name in self._reserved.items() if name in (self._end, own)]
        self.end_ids = frozenset(ends)
        plain = [part.strip() for piece in pieces for part in re.split("|".join(map(re.escape, names)), piece)]
        # A role's bare name beside a special token marks nothing by itself; "[/INST]" and "### Human:" do.
        self._marks = {part for part in plain if not re.fullmatch(r"[\w\s]*", part)}

    def prompt(self, turns: Turns, rf_tokens: int) -> list[int]:
        """Token numbers up to where the answer begins; see :meth:`lwm.language.chat.Chat.prompt`."""
        said = self._checked(as_turns(turns, "user"))
        ids = self.encode(self._render(said, rf_tokens, opened=True))
        self._require_places(ids, said, rf_tokens)
        return ids

    def _labelled(self, turns: Sequence[Turn], rf_tokens: int, first: int) -> tuple[list[int], list[int]]:
        """Labels on the answers from turn ``first`` on; what the template writes behind the last one is left out."""
        said = self._checked(as_turns(turns, "assistant"))
        written = self._render(said, rf_tokens)
        parts: list[tuple[list[int], list[int]]] = []
        text = ""
        for number, turn in enumerate(said):
            if turn.role != "assistant":
                continue
            before = self._render(said[:number], rf_tokens, opened=True)
            text = before + turn.text + self._end
            if not written.startswith(text):
                place = min(len(before), max(0, len(_common(written, text)) - 20))
                raise ConfigError(
                    f"answer {turn.text!r:.100} cannot be aligned with the template, which writes "
                    f"{written[place : place + 120]!r}",
                    f"{text[place : place + 120]!r}, the prompt's own beginning",
                    "remove white space around the answer, or set the template's options",
                )
            if number >= first:
                parts.append((self.encode(before), self.encode(text)))
        whole = self.encode(text)
        self._require_places(whole, said, rf_tokens)
        return whole, align(whole, parts, said[-1].text)

    def _messages(self, turns: Sequence[Turn], rf_tokens: int) -> list[dict[str, Any]]:
        """What the template is given."""
        return [{"role": turn.role, "content": shown(turn, rf_tokens)} for turn in turns]

    def _render(self, turns: Sequence[Turn], rf_tokens: int = 0, opened: bool = False) -> str:
        """The conversation in the template's words; ``opened`` begins the next answer."""
        from jinja2.exceptions import TemplateError

        messages = self._messages(turns, rf_tokens)
        dated = _FIXED_DATE + self.template if "strftime_now" in self.template else self.template
        try:
            text = self._renderer.apply_chat_template(
                messages, chat_template=dated, tokenize=False, add_generation_prompt=opened, **self.options
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = [turn.role for turn in turns]
            raise ConfigError(
                f"the chat template refuses turns of {roles} ({error})",
                "roles that it knows",
                "put the system's words into the first question" if "system" in roles else "use another template",
            ) from error
        return str(text)

    def _checked(self, turns: list[Turn]) -> list[Turn]:
        for turn in turns:
            # By its tokens too: a normaliser may turn other characters into those of a special token.
            inside = [text for text in (*self._reserved.values(), RF, *self._marks) if text in turn.text]
            inside += [
                self._reserved.get(n, RF) for n in self.encode(turn.text) if n in self._reserved or n == self.rf_id
            ]
            if inside:
                what = "answer" if turn.role == "assistant" else "question"
                raise ConfigError(
                    f"{what} {turn.text!r:.200} holds {sorted(set(inside))}",
                    f"a {what} without the template's own tokens",
                )
        return turns

    def _require_places(self, ids: list[int], turns: Sequence[Turn], rf_tokens: int) -> None:
        wanted = rf_tokens * sum(turn.captures for turn in turns)
        if ids.count(self.rf_id) != wanted:
            raise ConfigError(f"a chat template that writes {ids.count(self.rf_id)} places", f"{wanted} RF tokens")

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :func:`lwm.language.chat.chat_from_config`."""
        text = json.dumps(json.loads(self._tokenizer.to_str()), ensure_ascii=False)
        return {
            "kind": "pretrained",
            "tokenizer": text,
            "template": self.template,
            "special": dict(self._special),
            "options": dict(self.options),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The chat that :meth:`get_config` described; ModelError when it is none."""
        if set(config) != _KEYS:
            raise ModelError(f"a chat config of {sorted(config)}", f"{sorted(_KEYS)}")
        return cls(
            _wrapped(read_tokenizer(config["tokenizer"]), config["special"]), config["template"], config["options"]
        )


def _own_template(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ModelError("a tokenizer without chat template", "one of a chat or instruct model", "give a template")
    return str(template)


def _wrapped(tokenizer: Any, special: Mapping[str, str]) -> Any:
    """A tokenizer of transformers around one of tokenizers: it renders templates, in jinja's sandbox."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _common(one: str, other: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:same]
