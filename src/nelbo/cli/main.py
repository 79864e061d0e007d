"""The command line as a whole: its commands, and what happens when one fails."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from nelbo import runtime
from nelbo._version import __version__
from nelbo.cli import (
    compare,
    compress,
    contrast,
    demo,
    diagnose,
    equations,
    evaluate,
    failures,
    flags,
    info,
    ode,
    options,
    report,
    sample,
    tighten,
    train,
    truncated,
)

STATUSES = "Exit status: 0 done; 2 bad input or usage; 130 interrupted (what can be resumed is saved)."
app = typer.Typer(
    name="nelbo",
    help="The likelihood instrument for diffusion models: the variational bound term by term, with error bars.",
    epilog=f"{STATUSES} NELBO_TRACEBACK=1 shows where it failed.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        print(f"nelbo {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def nelbo(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """The likelihood instrument for diffusion models: the variational bound term by term, with error bars."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


COMMANDS = (
    demo.demo,
    train.train,
    evaluate.evaluate,
    compare.compare,
    contrast.contrast,
    diagnose.diagnose,
    ode.ode,
    tighten.tighten,
    sample.sample,
    compress.compress,
    compress.decompress,
    report.report,
    info.info,
)
for command in COMMANDS:
    app.command(epilog=STATUSES)(options.grouped(command))
app.add_typer(equations.app)


def execute(arguments: Sequence[str]) -> int:
    """Run `nelbo ARGUMENTS` in this process; the exit status. Failures are two lines on stderr."""
    flags.of_command({})
    try:
        arguments = ode.renamed(arguments)
        result: Any = typer.main.get_command(app).main(arguments, prog_name="nelbo", standalone_mode=False)
        status = result if isinstance(result, int) else 0
        if status == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    except (Exception, KeyboardInterrupt) as error:
        status = failures.report(error, arguments)
        try:
            sys.stdout.flush()
        except OSError:
            _silence_stdout()
    return status


def run() -> NoReturn:
    """The entry point: `execute` on the process's arguments, then leave with its status."""
    open_streams()
    end_as_ctrl_c()
    truncated.end_in_words()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace" if stream.encoding.lower() == "utf-8" else "replace")  # type: ignore
    runtime.leave(execute(sys.argv[1:]))


def open_streams() -> None:
    """Open /dev/null where stdin, stdout or stderr is closed (`>&-`): the next file that is opened would otherwise get
    its number, and with it whatever is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  for the life of the process


def end_as_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, with its temporary files deleted and its state saved."""

    def stop(number: int, frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)  # the launcher may send it again while the files are deleted
        raise KeyboardInterrupt

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    signals = [number for number in signals if signal.getsignal(number) == signal.SIG_DFL]
    for number in signals:
        signal.signal(number, stop)


def _silence_stdout() -> None:
    """Let what could not be written go, so that the interpreter does not try again on its way out."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
