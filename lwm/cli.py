"""The ``lwm`` command: LightningCLI for training, plain functions for everything else.

Every verb is a function that a Python user could call; this module only turns flags into arguments and errors into
one line and exit code 2.
"""

import inspect
import logging
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from decimal import Decimal
from difflib import get_close_matches
from importlib import import_module
from typing import Any, get_args, get_origin

from lwm.console import say
from lwm.errors import ConfigError, LWMError

FUNCTIONS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "demo": ("lwm.demo.run:demo", (), "the whole stack at laptop scale, ends with a report page"),
    "generate": ("lwm.data.generation:generate", (), "make a synthetic data set from a plan"),
    "trace-site": ("lwm.channel.sites:trace_site", ("scene",), "ray-trace a site's multipath table"),
    "ingest": ("lwm.data.ingest:ingest", ("paths",), "turn recordings into a data set"),
    "inspect": ("lwm.inspection:inspect", ("path",), "card and picture of a capture, data set or model folder"),
    "export": ("lwm.export:export", (), "a run's checkpoint into a model folder"),
    "add-expert": ("lwm.add_expert:add_expert", (), "one more protocol into a mixture of experts"),
    "embed": ("lwm.evaluation.embed:embed", (), "embeddings of a data set or of recordings, with labels and times"),
    "fewshot": ("lwm.evaluation.command:fewshot", (), "k-shot episodes beside their baselines, or your recordings"),
    "study": ("lwm.study.run:study", (), "compare pretraining objectives by frozen probes"),
    "predict": ("lwm.evaluation.predict:predict", ("paths",), "what a model with a head finds in recordings"),
    "ask": ("lwm.language.ask:ask", ("sources", "question"), "answers about recordings, pictures or samples"),
    "serve": ("lwm.serve.command:serve", (), "OpenAI-compatible server for RF-GPT"),
    "doctor": ("lwm.doctor:doctor", ("path",), "check a data set or model folder"),
}
"""Verb: where its function lives, its positional arguments, one line of help."""

TRAINING = {
    "fit": "train: pretraining, router, RF-GPT",
    "validate": "validation loss of a checkpoint",
    "test": "test metrics of a checkpoint",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 a check failed, 2 an error, 130 interrupted."""
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    prepare_process()
    # What provenance records; one command may run others, as `lwm demo` does.
    before = os.environ.get("LWM_COMMAND")
    os.environ["LWM_COMMAND"] = shlex.join(["lwm", *given])
    try:
        return _dispatch(given)
    except LWMError as error:
        return _fail(str(error), debug)
    except KeyboardInterrupt:
        again = "run the same command again (with --resume, where it has that flag)"
        sys.stderr.write(f"\nlwm: interrupted; finished parts are kept; {again}\n")
        return 130
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}", debug)
    finally:
        os.environ.pop("LWM_COMMAND") if before is None else os.environ.update(LWM_COMMAND=before)


def _fail(message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"lwm: error: {message}\n")
    return 2


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        say(_overview())
        return 0
    verb, rest = given[0], given[1:]
    if verb == "--version":
        from lwm import __version__

        say(__version__)
        return 0
    if verb in FUNCTIONS:
        return _call(verb, rest)
    if verb in TRAINING:
        from lwm.training import train

        return train(verb, rest)
    verbs = [*FUNCTIONS, *TRAINING]
    near = get_close_matches(verb, verbs, n=1)
    raise ConfigError(
        f"no verb {verb!r}", f"one of {verbs}", f"did you mean {near[0]!r}?" if near else "see lwm --help"
    )


def _overview() -> str:
    lines = ["usage: lwm VERB [...]    (lwm VERB --help shows its flags; --debug shows a traceback)", ""]
    lines += [f"  {verb:<10} {text}" for verb, (_, _, text) in FUNCTIONS.items()]
    lines += [f"  {verb:<10} {text}" for verb, text in TRAINING.items()]
    return "\n".join(lines)


def _call(verb: str, args: list[str]) -> int:
    place, positional, _ = FUNCTIONS[verb]
    module, name = place.split(":")
    function = getattr(import_module(module), name)
    parser = function_parser(verb, function, positional)
    if "-h" in args or "--help" in args:
        parser.print_help()
        return 0
    result = function(**parse(parser, args))
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def function_parser(verb: str, function: Callable[..., Any], positional: tuple[str, ...] = ()) -> Any:
    """A parser with one flag a parameter: booleans are switches, lists take several values."""
    from docstring_parser import parse as parse_docstring
    from jsonargparse import ArgumentParser

    doc = parse_docstring(function.__doc__ or "")
    texts = {parameter.arg_name: parameter.description for parameter in doc.params}
    parser = ArgumentParser(prog=f"lwm {verb}", description=doc.short_description, exit_on_error=False)
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind: Any = parameter.annotation
        options: dict[str, Any] = {"help": texts.get(name, "")}
        required = parameter.default is inspect.Parameter.empty
        if kind is bool:
            options["action"] = "store_true"
        elif (element := _element(kind)) is not None:
            options |= {"type": element, "nargs": "+"}
        elif pair := _pair(kind):
            options |= {"type": pair[0], "nargs": len(pair)}
        else:
            options["type"] = kind
        if name in positional:
            parser.add_argument(name, **options)
        elif required:
            parser.add_argument(f"--{name}", required=True, **options)
        else:
            parser.add_argument(f"--{name}", default=parameter.default, **options)
    return parser


def _element(kind: Any) -> Any:
    """X of ``list[X]`` or ``list[X] | None``; None for anything else."""
    for part in (kind, *get_args(kind)):
        if get_origin(part) is list:
            return get_args(part)[0]
    return None


def _pair(kind: Any) -> tuple[Any, ...]:
    """(X, X) of ``tuple[X, X]`` or ``tuple[X, X] | None``; () for anything else."""
    for part in (kind, *get_args(kind)):
        if get_origin(part) is tuple and Ellipsis not in get_args(part):
            return get_args(part)
    return ()


def parse(parser: Any, args: list[str]) -> dict[str, Any]:
    """Arguments as a dict; what argparse would print and exit with becomes a ConfigError that says what exists."""
    from argparse import ArgumentError

    args = [_with_underscores(word) for word in args]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = {action.option_strings[0] for action in parser._actions if action.option_strings}
            for word in args:
                flag = word.split("=")[0]
                if flag.startswith("--") and flag not in known | {"--help"}:
                    near = get_close_matches(flag, known, n=1)
                    remedy = f"did you mean {near[0]}?" if near else ""
                    raise ConfigError(f"{parser.prog}: no flag {flag}", f"one of {sorted(known - {'-h'})}", remedy)
            return vars(parser.parse_args(_with_negative_numbers(args)))
    except ArgumentError as error:
        raise ConfigError(f"{parser.prog}: {error}", remedy=f"see {parser.prog} --help") from error


def _with_underscores(word: str) -> str:
    """``--dry-run=...`` as ``--dry_run=...``: flags are the parameters' names, both spellings are in use."""
    flag, equals, value = word.partition("=")
    return flag.replace("-", "_").replace("__", "--", 1) + equals + value if flag.startswith("--") else word


def _with_negative_numbers(args: list[str]) -> list[str]:
    """``-1e6`` as ``-1000000``: argparse takes a negative number with an exponent for a flag; any other value that
    begins with a dash as ``--flag=-value``."""
    joined: list[str] = []
    for word in args:
        if re.fullmatch(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?", word):
            joined.append(format(Decimal(word), "f"))
            continue
        negative = word.startswith("-") and not word.startswith("--") and word != "-h"
        if negative and joined and joined[-1].startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def prepare_process() -> None:
    """Settings that must stand before torch is imported, and other libraries' start-up notes kept out of sight."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait for each other sleep instead of spinning: three times the training rate on two cores when
    # anything else runs beside it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("pytorch_lightning", "matplotlib", "transformers", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|transformers|jsonargparse|torch")


def run() -> None:
    """Console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
