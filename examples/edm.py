"""EDM: z = x + σε, a network F inside the preconditioning, with time ln(σ)/4 (Karras et al. 2022)."""

import torch
from small import Net, train

import nelbo

SIGMA_DATA = 0.75
torch.manual_seed(0)
net = Net()


# ---- their code: D(y; σ) = c_skip y + c_out F(c_in y, ln(σ)/4), ln σ normal, the loss weighted to unit size
def loss(x, y):
    sigma = (torch.randn(len(x), 1, 1, 1) * 1.4 - 1.0).exp()
    noisy = x + sigma * torch.randn_like(x)
    total = sigma**2 + SIGMA_DATA**2
    F = net(noisy / total.sqrt(), sigma.flatten().log() / 4)
    D = SIGMA_DATA**2 / total * noisy + sigma * SIGMA_DATA / total.sqrt() * F
    return ((D - x).square() * total / (sigma * SIGMA_DATA) ** 2).mean()


train(net, loss, -1.0, 1.0)

# ---- nelbo: the bound in the limit of many steps, between two noise levels
model = nelbo.from_callable(
    net,
    schedule=nelbo.schedules.edm(sigma_min=0.03, sigma_max=80.0),
    domain=nelbo.DataDomain((1, 8, 8), bins=17),
    predicts="edm_F",
    time="c_noise",
    sigma_data=SIGMA_DATA,
)
bound = nelbo.evaluate(model, "digits:test", tolerance=0.05)

if __name__ == "__main__":
    print(bound)
