"""An ε-network as in many tutorials: time t/T, data in [−½, ½], t drawn from 1..T−1, so that t = 0 was never seen."""

import torch
from small import Net, train

import nelbo

T = 300
torch.manual_seed(0)
net = Net()
betas = torch.linspace(1e-4, 4e-2, T)
bars = torch.cumprod(1 - betas, 0)


# ---- their code
def loss(x, y):
    t = torch.randint(1, T, (len(x),))
    eps = torch.randn_like(x)
    a = bars[t][:, None, None, None]
    return (net(a.sqrt() * x + (1 - a).sqrt() * eps, 10 * t / T) - eps).square().mean()


train(net, loss, -0.5, 0.5)

# ---- nelbo: unit time is (i + 1)/T for index i, theirs is i/T; the chain begins at the first index that was trained
model = nelbo.from_callable(
    lambda z, t: net(z, 10 * (t - 1 / T)),
    schedule=nelbo.schedules.from_betas(betas.double()),
    domain=nelbo.DataDomain((1, 8, 8), bins=17, low=-0.5, high=0.5),
    predicts="eps",
    time="unit",
    first_level=1,
)
bound = nelbo.evaluate(model, "digits:test", tolerance=0.05)

if __name__ == "__main__":
    print(bound)
