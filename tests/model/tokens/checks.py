"""Checks of exact data over symbols, and of what a model makes of its network's logits."""

from __future__ import annotations

import itertools
import math

import torch

from nelbo.model.exact.tokens import ExactTokens, MarkovData, ProductTokens, TokenData
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.reverse import MatchedMask, TokenReverse
from nelbo.process.tokens import survival
from nelbo.process.tokens.kernel import Absorbing, Kernel, Uniform
from nelbo.process.tokens.levels import TokenLevels

INITIAL = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TRANSITION = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.4, 0.5, 0.1]], dtype=torch.float64)
LENGTH = 4


def markov(length: int = LENGTH) -> MarkovData:
    return MarkovData(INITIAL, TRANSITION, length)


def product() -> ProductTokens:
    return ProductTokens(torch.rand(LENGTH, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1)


DATA = {"markov": markov, "product": product}


def enumerated(name: str) -> TokenData:
    """The same law as a table, from the definition of a chain or product."""
    joint = torch.zeros(*[3] * LENGTH, dtype=torch.float64)
    for index in torch.cartesian_prod(*[torch.arange(3)] * LENGTH).tolist():
        if name == "markov":
            p = float(INITIAL[index[0]])
            for a, b in itertools.pairwise(index):
                p *= float(TRANSITION[a, b])
        else:
            p = math.prod(float(product().probabilities[i, k]) for i, k in enumerate(index))
        joint[tuple(index)] = p
    return TokenData(joint)


def at(alpha: float, rows: int) -> TokenLevels:
    level = torch.full((rows,), alpha, dtype=torch.float64)
    return TokenLevels(1 - level, level, 1 - level)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-12) -> None:
    assert a.shape == b.shape and float((a - b).abs().max()) <= tolerance


def check_data(name: str) -> None:
    """log p, entropy and posteriors are those of the table, of masked places and of uniform noise."""
    data, table = DATA[name](), enumerated(name)
    close(data.log_prob(table.sequences), table.log_prob(table.sequences))
    assert abs(data.entropy() - table.entropy()) < 1e-12
    z = torch.randint(4, (60, LENGTH), generator=torch.Generator().manual_seed(1))
    found = [d.denoiser(Absorbing(3))(z, z == 3, None).exp() for d in (data, table)]
    close(*found)
    z = z.clamp(max=2)
    for law in ("posterior", "leave_one_out"):
        found = [d.denoiser(Uniform(), law)(z, z == 3, at(0.6, 60)).softmax(-1) for d in (data, table)]
        close(*found)


def check_posterior() -> None:
    """The table's posterior is a conditional probability, by counting sequences."""
    table, z = enumerated("markov"), torch.tensor([[0, 3, 3, 1]])
    found = table.denoiser(Absorbing(3))(z, z == 3, None).exp()[0]
    rest = table.joint[0, :, :, 1]
    close(found[1], rest.sum(1) / rest.sum())
    close(found[2], rest.sum(0) / rest.sum())


def check_samples(data: ExactTokens) -> None:
    """The mean of −log p of 4,000 draws is the entropy, and pairs are as frequent as they should be."""
    x = data.sample(4000, seed=3)
    nll = -data.log_prob(x)
    assert abs(float(nll.mean()) - data.entropy()) < 4 * float(nll.std()) / math.sqrt(4000)
    name = "markov" if isinstance(data, MarkovData) else "product"
    pairs = enumerated(name).joint.sum((2, 3)).flatten() if not isinstance(data, TokenData) else data.joint.flatten()
    index = x[:, 0] * 3 + x[:, 1] if not isinstance(data, TokenData) else (x * torch.tensor([3, 1])).sum(1)
    seen = torch.bincount(index, minlength=len(pairs)) / 4000
    assert float(((seen - pairs).abs() / (pairs * (1 - pairs) / 4000).sqrt()).max()) < 4.5
    assert torch.equal(data.sample(7, seed=3), x[:7])


def check_long_chain() -> None:
    """A Markov chain of 64 symbols: revealing them in any order costs −log p(x), sequence by sequence."""
    data = markov(64)
    model, x = data.model(), data.sample(20)
    place = torch.rand(20, 64, generator=torch.Generator().manual_seed(2)).argsort(1).argsort(1)
    total = torch.zeros(20, dtype=torch.float64)
    for step in range(64):
        hidden = place >= step
        log_p = model.predict(x.masked_fill(hidden, 3), hidden, None)
        total -= log_p.gather(-1, x[..., None])[..., 0][place == step]
    close(total, -data.log_prob(x), 1e-9)


# ------------------------------------------------------------ what a model makes of logits
LOGITS = torch.tensor([[[1.0, 2.0, 0.5, 4.0], [0.0, -1.0, 3.0, 1.0]]], dtype=torch.float64)


def of_logits(kernel: Kernel, vocabulary: int, columns: int, **rules: bool) -> torch.Tensor:
    model = TokenModel(
        TokenDomain(vocabulary, 2),
        kernel,
        NetworkTokenDenoiser(lambda z: LOGITS[..., :columns].expand(len(z), -1, -1), vocabulary),
        None if kernel.absorbing else survival.Linear(0.1),
        reverse=TokenReverse("mixture", **rules),
    )
    z = torch.zeros(1, 2, dtype=torch.long)
    return model.predict(z, z == 9, None).exp()


def check_the_masks_column() -> None:
    own = LOGITS.softmax(-1)
    close(of_logits(Absorbing(3), 3, 3), LOGITS[..., :3].softmax(-1))  # no column for it
    close(of_logits(Absorbing(3), 3, 4), LOGITS[..., :3].softmax(-1))  # a column, removed
    close(of_logits(Absorbing(3), 3, 4, remove_mask=False), own[..., :3])  # left in
    inside = of_logits(Absorbing(1), 4, 4)  # a symbol of the vocabulary
    close(inside[..., 1], torch.zeros(1, 2).double())
    close(inside[..., [0, 2, 3]], LOGITS[..., [0, 2, 3]].softmax(-1))
    close(of_logits(Absorbing(1), 4, 4, remove_mask=False), own)


def check_costs() -> None:
    """−log p of single symbols is that of the whole law: exactly in float64; of float32 and bfloat16 logits of 5,000
    symbols, far from 0, within 1e-7 nats, and without bias; whatever of the mask and of absent symbols is removed."""
    make = torch.Generator().manual_seed(4)
    V, m = 5000, 200
    precise = 30 + 4 * torch.randn(m, V + 1, generator=make, dtype=torch.float64)
    x = torch.randint(2, V, (m,), generator=make)
    for rules in (TokenReverse(), TokenReverse(remove_mask=False), TokenReverse(absent=(1, 7))):
        for kernel, width in ((Absorbing(V), V + 1), (Absorbing(V), V), (Absorbing(1), V)):
            for dtype, most in ((torch.float64, 1e-12), (torch.float32, 1e-7), (torch.bfloat16, 1e-7)):
                logits = precise[:, :width].to(dtype)
                law = rules.log_law(logits, kernel, V)
                difference = rules.costs(logits, x, kernel, V) + law.gather(-1, x[:, None])[:, 0]
                difference = torch.where(law.gather(-1, x[:, None])[:, 0].isinf(), 0.0, difference)
                assert float(difference.abs().max()) < most
                assert abs(float(difference.mean())) < most / 20


def check_shift() -> None:
    """The logits at a place are those of the next one."""

    def next_symbol(z: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((z + 1) % 5, 5).double()

    z = torch.tensor([[2, 0, 4]])
    found = NetworkTokenDenoiser(next_symbol, 5, shift=True)(z, z == 9, None).argmax(-1)
    assert found[0, 1:].tolist() == [3, 1]


def check_told() -> None:
    """What a network is told: hidden places, their share, time, −log α."""
    told = []

    def net(z: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        told.append((time.dtype.is_floating_point, [round(v, 6) for v in time.tolist()]))
        return torch.zeros(*z.shape, 3)

    hidden = torch.tensor([[True, True, False, False, False], [True, False, False, False, False]])
    z = torch.where(hidden, 3, 0)
    levels = at(math.exp(-2.0), 2)
    for time in ("count", "mask_fraction", "unit", "sigma"):
        NetworkTokenDenoiser(net, 3, time)(z, hidden, levels)
    t = round(1 - math.exp(-2.0), 6)
    assert told == [(False, [2, 1]), (True, [0.4, 0.2]), (True, [t, t]), (True, [2.0, 2.0])]


def check_matched_prior() -> None:
    """α_T log V of every place, V without a mask of its own."""
    x = torch.zeros(2, 3, dtype=torch.long)
    prior = MatchedMask()
    close(prior.divergence(x, at(0.2, 2), Absorbing(5), 5), torch.full((2, 3), 0.2 * math.log(5)).double(), 1e-7)
    close(prior.divergence(x, at(0.2, 2), Absorbing(0), 5), torch.full((2, 3), 0.2 * math.log(4)).double(), 1e-7)
