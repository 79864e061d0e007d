"""Flow matching: z = (1 − t) x + t ε, a network that predicts dz/dt = ε − x at time t (Lipman et al. 2023)."""

import torch
from small import Net, train

import nelbo

torch.manual_seed(0)
net = Net()


# ---- their code
def loss(x, y):
    t = torch.rand(len(x))
    eps = torch.randn_like(x)
    s = t[:, None, None, None]
    return (net((1 - s) * x + s * eps, 10 * t) - (eps - x)).square().mean()


train(net, loss, -1.0, 1.0)

# ---- nelbo: with data at t = 0; if yours are at t = 1, give lambda z, t: -net(z, 1 - t)
model = nelbo.from_callable(
    lambda z, t: net(z, 10 * t),
    schedule=nelbo.schedules.flow(t_min=0.03, t_max=0.999),
    domain=nelbo.DataDomain((1, 8, 8), bins=17),
    predicts="velocity",
    time="unit",
)
bound = nelbo.evaluate(model, "digits:test", tolerance=0.05)
steps = nelbo.evaluate(model, "digits:test", tolerance=0.05, grid=nelbo.grids.even(100))

if __name__ == "__main__":
    print(bound)
    print(f"with 100 ancestral steps it is {steps.bits_per_dim:.3f}")
