"""The laws of models: a prediction depends on its own example, level and condition, and on nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.bound.prepare import prepare
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.testing.hold import close, hold, per_example, some_levels


def check_model(
    model: DiffusionModel,
    data: Examples | Tensor,
    condition: Mapping[str, Tensor] | None = None,
    *,
    precision: str = "float32",
    relative: float = 1e-4,
    honours_condition: bool = True,
) -> None:
    """A model keeps the laws that a bound takes for granted; at least 3 examples, the first 8 are used.

    finite          predictions have the shape of z and are finite at every level looked at
    deterministic   the same call says the same, before and after other calls (no dropout, no hidden state)
    alone           an example says the same alone as in a batch, and beside other neighbours, to `relative`
    own time        examples of one batch at different levels say what each says at its own level alone
    own condition   rows of the condition go with their examples; with other rows the prediction is another one
    untouched       the network does not write into its input
    bound           finite, and the same for batches of one and of many

    precision, relative: what the network computes in, and how much rounding may differ with the size of a batch.
    honours_condition: False where another condition may say the same. AssertionError names the law; other errors are
    those of `nelbo.evaluate`.

    >>> import nelbo, torch
    >>> from nelbo import testing
    >>> model = nelbo.from_callable(lambda z, t: torch.zeros_like(z), schedule=nelbo.schedules.linear(T=10),
    ...                             domain=nelbo.DataDomain((1, 8, 8), bins=17))
    >>> testing.check_model(model, torch.randint(17, (4, 1, 8, 8)))
    """
    examples = (data if isinstance(data, Examples) else Examples(torch.as_tensor(data))).first(8)
    rows = {k: torch.as_tensor(v)[:8] for k, v in (condition or {}).items()}
    problem, _ = prepare(model, examples, condition=rows, precision=precision)
    n = problem.examples
    if n < 3:
        raise UsageError(f"{n} examples to try the laws on", "give at least 3, different from each other")
    asked = problem.model
    every = torch.arange(n)
    x = problem.values(every)
    eps = Purpose.CHECK_NOISE.normal(0, every, shape=model.domain.shape)
    levels = some_levels(asked)

    def said(which: Tensor, t: Levels, rows: Mapping[str, Tensor] = rows) -> Tensor:
        """x̂, and whatever else is predicted, of the examples `which` at levels t (one each), (n, everything)."""
        z = column(t.alpha, x) * x[which] + column(t.sigma, x) * eps[which]
        before = z.clone()
        with torch.no_grad(), asked.denoiser.inference():
            found: Prediction = asked.predict(z, t, {k: v[which] for k, v in rows.items()})
        hold(torch.equal(z, before), "untouched: the network wrote into its input")
        hold(found.x0.shape == z.shape, f"finite: x̂ has shape {tuple(found.x0.shape)} for z of {tuple(z.shape)}")
        parts = [p.flatten(1).double() for p in (found.x0, found.variance, found.log_probs) if p is not None]
        return torch.cat(parts, 1)

    for k in range(len(levels)):
        t = levels[k : k + 1]
        where = f"at log-SNR {float(t.logsnr):.4g}"
        together = said(every, t.expand(n))
        hold(bool(torch.isfinite(together).all()), f"finite: a prediction is NaN or infinite {where}")
        hold(
            torch.equal(together, said(every, t.expand(n))),
            f"deterministic: the same call says something else {where} (dropout left on, or a hidden state)",
        )
        alone = torch.cat([said(every[i : i + 1], t) for i in range(n)])
        close(together, alone, relative, f"alone: an example says something else alone than in a batch {where}")
        turned = said(every.roll(1), t.expand(n)).roll(-1, 0)
        close(turned, together, relative, f"alone: an example depends on its place in the batch {where}")
    mixed = levels[torch.arange(n) % len(levels)]
    alone = torch.cat([said(every[i : i + 1], mixed[i : i + 1]) for i in range(n)])
    close(said(every, mixed), alone, relative, "own time: in a batch of several levels an example is not at its own")
    if rows and honours_condition:
        others = {k: v.roll(1, 0) for k, v in rows.items()}
        changed = any(not torch.equal(rows[k], others[k]) for k in rows)
        same = torch.equal(said(every, mixed), said(every, mixed, others))
        hold(not (changed and same), "own condition: with the conditions of other examples nothing changes")
    some = Exhaustive(1) if problem.transitions is not None and problem.transitions <= 32 else Stratified(2, 2)
    few, many = (
        per_example(model, examples, some, condition=rows, precision=precision, batch_size=b).nats for b in (1, n)
    )
    hold(bool(torch.isfinite(many).all()), "bound: it is NaN or infinite")
    close(few, many, 10 * relative, "bound: it depends on the size of the batch")
