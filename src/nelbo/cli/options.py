"""Options that several commands share, alone or in groups, and the checks that typer does not do.

A group is a frozen dataclass of options. A command takes it as one parameter, and `grouped` makes of that command the
one that typer reads, with the group's options in the place of the parameter.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from nelbo.cli import flags
from nelbo.cli.output import check_target
from nelbo.errors import UsageError

if TYPE_CHECKING:
    from nelbo.adapters.choices import Overrides
    from nelbo.process.grid import Grid

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder written by `nelbo train` or by diffusers, package.module:function, or org/name of the hub.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="digits[:train|:test], FILE.npz[#key], of examples of different size with #mask=KEY, #lengths=KEY or "
        "#offsets=KEY, FILE.npy, FILE.csv, an IDX file, a folder of images or its part FOLDER:train, "
        "hf:NAME[:split], or of symbols text:FILE[#length=L][#stride=S][#tokenizer=bytes|chars|FILE.json].",
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="N|KEY",
        help="Of symbols: the first N places are given and not scored, or those that an array of the npz file says.",
    ),
]
Mask = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="KEY",
        help="The array of the npz file that says what is there of padded examples: bools or lengths.",
    ),
]
Missing = Annotated[
    str | None,
    typer.Option(
        "--missing", metavar="marginal", help="Score what is not NaN; FILE.csv#empty=nan has empty fields so."
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        metavar="DATA",
        help="Of symbols: other sequences, such as the network's training data, whose neighbours foretell costs: fewer "
        "evaluations for the same bound.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Use only the first N examples.")]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, metavar="K", help="An even grid of K steps instead of the model's own.")
]
MaxNfe = Annotated[
    int | None, typer.Option("--max-nfe", min=1, metavar="N", help="Spend at most N network evaluations.")
]
Condition = Annotated[
    str | None,
    typer.Option("--condition", metavar="NAME", help="The keyword of the network that takes the data's labels."),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, metavar="N", help="Examples in one call of the network.")
]

TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Import and call the function that a model folder refers to."),
]


def _check_seed(seed: int) -> int:
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed {seed}", "give a whole number from 0 to 2^63 - 1")
    return seed


def _check_device(name: str | None) -> str | None:
    if name is not None:
        from nelbo.workers import check_device

        check_device(name)
    return name


Seed = Annotated[
    int, typer.Option("--seed", metavar="N", callback=_check_seed, help="The same seed gives the same result.")
]
Tolerance = Annotated[
    str,
    typer.Option(
        "--tolerance", metavar="BPD", help="Standard error to reach, in bits/dim, or relative to the value: 5%."
    ),
]
AnyCost = Annotated[
    bool,
    typer.Option("--any-cost", help="Go on even where the pilot says that it takes far more evaluations than usual."),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="D", callback=_check_device, help="cpu, cuda, cuda:1, mps.")
]


Precision = Annotated[
    str,
    typer.Option("--precision", metavar="float32|float64|bf16", help="Of the network; everything else is float64."),
]


@dataclass(frozen=True)
class Running:
    """How a command is run."""

    seed: Seed = 0
    batch_size: BatchSize = None
    device: Device = None

    def keywords(self) -> dict[str, Any]:
        """As keywords of the verbs in `nelbo.api`; of several processes each has its own GPU."""
        from nelbo import runtime

        return {"seed": self.seed, "batch_size": self.batch_size, "device": runtime.device(self.device)}


@dataclass(frozen=True)
class Choices:
    """Choices that replace those of a model that nelbo did not train."""

    variance: Annotated[
        str | None,
        typer.Option(
            "--variance",
            metavar="NAME",
            help="For a model not trained by nelbo: its reverse variance, beta_tilde, beta, learned_range, …",
        ),
    ] = None
    decoder: Annotated[
        str | None,
        typer.Option(
            "--decoder",
            metavar="NAME",
            help="For a model not trained by nelbo: its decoder, discretized_gaussian, categorical, …",
        ),
    ] = None
    bins: Annotated[
        int | None,
        typer.Option(
            "--bins", min=2, metavar="K", help="For a model not trained by nelbo: its codes run from 0 to K - 1."
        ),
    ] = None
    range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--range",
            metavar="LOW HIGH",
            help="For a model not trained by nelbo: the values of the first and the last code.",
        ),
    ] = None
    clip: Annotated[
        bool | None,
        typer.Option(
            "--clip/--no-clip",
            help="For a model not trained by nelbo: clamp its prediction of x to the range, or use it as it is.",
        ),
    ] = None

    def overrides(self) -> Overrides:
        """As the object that the verbs take."""
        from nelbo.adapters.choices import Overrides

        return Overrides(self.variance, self.decoder, self.bins, self.range, self.clip)


@dataclass(frozen=True)
class Files:
    """Files of a command that scores data."""

    per_example: Annotated[
        Path | None,
        typer.Option(
            "--per-example",
            metavar="FILE.npz|FILE.csv",
            help="Write index, nats, standard_error and terms here; of symbols also the scored tokens and bytes, of "
            "two models the differences in nats.",
        ),
    ] = None
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.json", help="Write the JSON result here.")] = None
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="Keep what is computed here; the same command resumes from it."),
    ] = None

    def resume_hint(self) -> str:
        """How an interrupted command is continued."""
        if self.state is None:
            return "with --state FILE it can be resumed"
        return f"run the same command again to go on from {self.state}"

    def check(self) -> None:
        """Refuse files that cannot be written, and two options that name the same file. Errors: UsageError, OSError."""
        seen: dict[Path, str] = {}
        for name, path in (("--out", self.out), ("--per-example", self.per_example), ("--state", self.state)):
            if path is None:
                continue
            place = check_target(path, name).resolve()
            if place in seen and not (path.exists() and not path.is_file()):  # a device may be written to twice
                raise UsageError(f"{seen[place]} and {name} are both {path}", "give two names")
            seen[place] = name


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of its groups in the place of the parameters that are groups."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        fields = {name: (hints[name], parameter.default)}
        if name in groups:
            kinds = get_type_hints(groups[name], include_extras=True)
            fields = {f.name: (kinds[f.name], f.default) for f in dataclasses.fields(groups[name])}
        for field, (annotation, default) in fields.items():
            parameters[field] = inspect.Parameter(
                field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )

    names = {name: _options_of(parameter.annotation) for name, parameter in parameters.items()}

    @functools.wraps(command)
    def run(**values: Any) -> None:
        flags.of_command({name: options for name, options in names.items() if options})
        for name, kind in groups.items():
            values[name] = kind(**{f.name: values.pop(f.name) for f in dataclasses.fields(kind)})
        command(**values)

    vars(run)["__signature__"] = inspect.Signature(list(parameters.values()))
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return run


def _options_of(annotation: Any) -> tuple[str, ...]:
    """The options that stand for a parameter, "--clip" and "--no-clip", or none for an argument."""
    declared: list[Any] = []
    for one in getattr(annotation, "__metadata__", ()):  # in Annotated, typer takes the first name for the default
        declared += [getattr(one, "default", None), *(getattr(one, "param_decls", None) or ())]
    names = [name for text in declared if isinstance(text, str) for name in text.split("/")]
    return tuple(name for name in names if name.startswith("--"))


def given_places(data: str, prompt: str | None, mask: str | None) -> tuple[str, int | None]:
    """DATA with the arrays that --prompt and --mask name, and the length of a prompt that is a number.

    Errors: UsageError where an array is named and DATA is no npz file.
    """
    length = int(prompt) if prompt is not None and prompt.isascii() and prompt.isdecimal() else None
    keys = {"prompt": prompt if length is None else None, "mask": mask}
    for name, key in keys.items():
        if key is None:
            continue
        if ".npz" not in data:
            raise UsageError(
                f"--{name} {key} with --data {data}",
                f"give the name of an array of an npz file{', or a number of places' if name == 'prompt' else ''}",
            )
        data = f"{data}#{name}={key}"
    return data, length


def chosen_grid(steps: int | None, continuous: bool) -> Grid | None:
    """The grid that --steps or --continuous ask for; None: the model's own. Errors: UsageError for both at once."""
    if steps is not None and continuous:
        raise UsageError(f"--steps {steps} and --continuous were both given", "give one of them, or none")
    from nelbo.process import every_grid as grids

    if continuous:
        return grids.continuous()
    return None if steps is None else grids.even(steps)
