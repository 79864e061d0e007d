"""`nelbo-lm-eval`: the command of lm-evaluation-harness, which knows the model `nelbo` here.

    nelbo-lm-eval run --model nelbo --model_args model=FOLDER --tasks TASK …

lm_eval finds the models of its own package alone, and has no way to name others on its command line.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from nelbo import runtime
from nelbo.cli import failures


def execute(arguments: Sequence[str]) -> int:
    """Run lm_eval with `arguments`; its exit status, 2 where lm_eval is missing or a model is refused."""
    try:
        importlib.import_module("nelbo.adapters.harness").main(arguments)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        return failures.report(error)
    return 0


def run() -> NoReturn:
    """The entry point."""
    runtime.leave(execute(sys.argv[1:]))
