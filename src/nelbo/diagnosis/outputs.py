"""Siblings of the output: what the network predicts and with which sign, and data at the other end of time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nelbo.diagnosis.cached import Negated, changed, with_net
from nelbo.diagnosis.subject import Sibling, Subject, plain
from nelbo.diagnosis.times import ConventionTime
from nelbo.errors import UsageError
from nelbo.model.denoiser import NetworkDenoiser, TimeInput
from nelbo.model.mixture import MixtureDenoiser
from nelbo.process.prediction import Output, no_slope
from nelbo.process.schedule import Table
from nelbo.typing import Json

SIGMA_DATA = (0.5, 1.0)
"""Standard deviations that a preconditioning is tried with."""


@dataclass(frozen=True)
class Predicts(Sibling):
    """The network predicts another output, or one of the other sign."""

    output: Output
    sign: int = 1
    sigma_data: float | None = None
    edm: bool = False
    """Whether it or what was declared is one of EDM's, whose input is z/α."""
    both: bool = False
    """Whether it differs from what was declared in more than the output or the sign."""
    same_chain = True

    @property
    def evaluates(self) -> bool:  # type: ignore[override]
        return self.edm

    @property
    def unusual(self) -> bool:  # type: ignore[override]
        return self.both

    @property
    def name(self) -> str:
        given = "" if self.sigma_data is None else f", σ_data {plain(self.sigma_data)}"
        return f"predicts {'' if self.sign > 0 else '−'}{self.output.value}{given}"

    @property
    def declaration(self) -> Json:
        fields: Json = {"predicts": self.output.value}
        if self.sign < 0:
            fields["sign"] = -1
        return fields if self.sigma_data is None else {**fields, "sigma_data": self.sigma_data}

    @property
    def claim(self) -> str:
        return f"this network {self.name}"

    @property
    def change(self) -> str:
        line = f'predicts="{self.output.value}"'
        if self.sigma_data is not None:
            line += f", sigma_data={plain(self.sigma_data)}"
        return line if self.sign > 0 else f"{line}, lambda z, t: -net(z, t)"

    def of(self, subject: Subject) -> Subject:
        denoiser = subject.model.denoiser
        if isinstance(denoiser, MixtureDenoiser):
            if denoiser.output is None or self.sign < 0 or self.output not in (Output.EPS, Output.X0, Output.V):
                raise UsageError("a mixture head, whose output belongs to its codes", "it is read in one way")
            return subject.with_denoiser(changed(denoiser, output=self.output))
        own = subject.network
        if self.output is Output.VELOCITY and isinstance(subject.model.schedule, Table):
            raise no_slope()
        other = changed(own, output=self.output, sigma_data=self.sigma_data)
        if self.sign < 0:
            other = with_net(other, lambda net: Negated(net, subject.model.domain.shape[0]))
        return subject.with_denoiser(other)


@dataclass(frozen=True)
class Reversed(Sibling):
    """Time runs from noise to data in the network: it takes 1 − t, and its velocity has the other sign."""

    same_chain = True

    @property
    def name(self) -> str:
        return "data at t = 1"

    @property
    def declaration(self) -> Json:
        return {"time": "1 − unit", "sign": -1}

    @property
    def claim(self) -> str:
        return "this network has its data at t = 1"

    @property
    def change(self) -> str:
        return "lambda z, t: -net(z, 1 - t)"

    def of(self, subject: Subject) -> Subject:
        own = subject.network
        if own.output is not Output.VELOCITY or own.time is not TimeInput.UNIT:
            raise UsageError("no velocity of unit time", "its sign does not depend on the direction of time")
        time = ConventionTime("1 − unit", "one_minus_unit", subject.model.schedule.table_length)
        other = with_net(own, lambda net: Negated(net, subject.model.domain.shape[0]))
        return subject.with_denoiser(changed(other, time=time))


def _deviation(subject: Subject) -> float:
    """The standard deviation of the data, as it may have been given to a preconditioning."""
    return float(f"{float(subject.model.domain.values(subject.data).std()):.2g}")


def siblings(subject: Subject) -> list[Sibling]:
    """Every other output with both signs, and the other direction of time for a velocity."""
    denoiser = subject.model.denoiser
    if isinstance(denoiser, MixtureDenoiser):
        return [Predicts(o) for o in (Output.EPS, Output.X0, Output.V) if o is not denoiser.output]
    if not isinstance(denoiser, NetworkDenoiser):
        return [Predicts(Output.EPS)]  # which says why there are none
    own = Predicts(denoiser.output, 1, denoiser.sigma_data)
    kinds = [Predicts(output) for output in Output if output is not Output.EDM_F]
    given = {*SIGMA_DATA, *([denoiser.sigma_data] if denoiser.sigma_data is not None else [])}
    of_data = _deviation(subject)
    if all(abs(of_data / d - 1) > 0.1 for d in given):
        given.add(of_data)
    kinds += [Predicts(Output.EDM_F, 1, d) for d in sorted(given)]
    both = [dataclasses.replace(kind, sign=sign) for kind in kinds for sign in (1, -1)]
    edm = own.output.edm
    others: list[Sibling] = []
    for kind in both:
        if kind == own:
            continue
        two = kind.sign < 0 and (kind.output, kind.sigma_data) != (own.output, own.sigma_data)
        two = two or edm != kind.output.edm
        others.append(dataclasses.replace(kind, edm=edm or kind.output.edm, both=two))
    return [*others, Reversed()] if denoiser.output is Output.VELOCITY else others
