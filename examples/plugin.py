"""A model for the command line: `nelbo evaluate plugin:model --data digits:test --condition y`, in this folder.

A function without arguments returns the model; a real one would read its weights from a file. The network takes the
class y, which `--condition y` takes from the labels of the data.
"""

import torch
from small import Net, train

import nelbo
from nelbo.data import read

T = 200


def model() -> nelbo.DiffusionModel:
    """The class-conditional model that the command line evaluates."""
    torch.manual_seed(0)
    schedule = nelbo.schedules.cosine(T)
    bars = schedule.at_index(torch.arange(T)).alpha.square().float()
    net = Net(classes=10)

    def loss(x, y):
        i = torch.randint(T, (len(x),))
        eps = torch.randn_like(x)
        a = bars[i][:, None, None, None]
        return (net(a.sqrt() * x + (1 - a).sqrt() * eps, i / T * 10, y) - eps).square().mean()

    train(net, loss, -1.0, 1.0)
    return nelbo.from_callable(
        lambda z, i, y: net(z, i / T * 10, y),
        schedule=schedule,
        domain=nelbo.DataDomain((1, 8, 8), bins=17),
        clip=True,
        trained_on=read("digits:train").data[:, None],
    )
