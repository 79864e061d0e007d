"""How good samples are for their network evaluations, by distances that need nothing from elsewhere.

    .venv/bin/python benchmarks/sampling_quality.py [--quick] [--n 500] [--only digits fashion] [--out runs/quality]

Two models, `runs/digits` (`nelbo train`, D = 64) and `runs/fashion28` (nelbo's U-Net on Fashion-MNIST, ε, T = 1000),
samplers and grids by the evaluations that a sample takes, the decoder's included. Samples are E[x | z_1]; one seed.

    sliced Wasserstein   √ of the mean over 512 keyed directions of W₂² between the projections of samples and of images
    Fréchet              |m − m'|² + tr(C + C' − 2 (C^½ C' C^½)^½) of the features of a classifier trained here
    entropy, labels      mean entropy of the classifier's answer (nats); total variation of its labels from the images'

Samples are compared with images that the model was not trained on (of the digits with half of all), and so are as many
others, which says where samples of the data itself would end ("images"). Rows are kept in the JSON as they are found,
and a second run goes on from there. Written beside it: a figure of the tables, and a sheet of samples from one noise.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from evaluation_cost import SHARED, UNET
from torch import Tensor, nn

import nelbo
from nelbo.data import read, resolve
from nelbo.files import write_atomic
from nelbo.maths import random
from nelbo.process.grid import Grid
from nelbo.report import pictures

BUDGETS = (5, 9, 17, 33, 65)
"""Network evaluations a sample, odd: methods of one and of two evaluations a step can both spend them."""
ROWS = (
    ("ancestral", "even"), ("ancestral", "logsnr"),
    ("ddim", "even"), ("ddim", "quadratic"), ("ddim", "karras"), ("ddim", "logsnr"), ("ddim", "bound"),
    ("heun", "even"), ("heun", "karras"), ("heun", "logsnr"), ("flow_midpoint", "logsnr"),
    ("dpmpp_2m", "even"), ("dpmpp_2m", "quadratic"), ("dpmpp_2m", "karras"), ("dpmpp_2m", "logsnr"),
    ("dpmpp_2m", "bound"), ("dpmpp_2m_sde", "even"), ("dpmpp_2m_sde", "logsnr"),
)  # fmt: skip
METRICS = ("frechet", "sliced_wasserstein", "entropy", "labels")


class Classifier(nn.Module):
    """Two convolutions and a layer of 32 features, of which the answer is linear; (B, 1, H, W) in [−1, 1]."""

    def __init__(self, side: int, classes: int = 10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.SiLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 32), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 32) and logits (B, classes)."""
        features = self.body(x)
        return features, self.head(features)

    def told(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and probabilities of many, float64."""
        with torch.no_grad():
            parts = [self(some.float()) for some in x.split(500)]
        features, logits = (torch.cat(v).double() for v in zip(*parts, strict=True))
        return features, logits.softmax(1)


def classifier(x: Tensor, labels: Tensor, steps: int) -> Classifier:
    """Trained for `steps` batches of 128 by Adam; seeds fixed."""
    torch.manual_seed(0)
    net = Classifier(x.shape[-1])
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for step in range(steps):
        rows = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(net(x[rows].float())[1], labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
    return net.eval()


@dataclass
class Case:
    """A model, images (N, 1, H, W) as values to compare with, others to compare them with, a classifier."""

    name: str
    model: nelbo.DiffusionModel
    images: Tensor
    others: Tensor
    codes: Tensor
    net: Classifier

    def shaped(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.images.shape[1:])


def case(name: str, quick: bool) -> Case:
    """The model, trained where it is not there yet, and its images."""
    if name == "digits":
        folder, data = Path("runs/digits"), resolve("digits")
        model = nelbo.load(folder) if folder.exists() else nelbo.train("digits:train", folder)
        x = model.domain.values(data.data).reshape(-1, 1, 8, 8)
        mixed = random.permutation(0, len(x))
        assert data.labels is not None
        net = classifier(x, data.labels, 100 if quick else 1500)
        half = len(x) // 2
        return Case(name, model, x[mixed[:half]], x[mixed[half:]], data.data[:200], net)
    folder, source = Path("runs/fashion28"), SHARED / "data/fashion_mnist"
    train, test = (read(str(source / f"{part}-images-idx3-ubyte.gz")) for part in ("train", "t10k"))
    if not (folder / "model.json").exists():
        nelbo.train(train.data[:, None], folder, {**UNET, "steps": 3000})
    model = nelbo.load(folder)
    x, y = (model.domain.values(d.data[:, None]) for d in (train, test))
    assert train.labels is not None and test.labels is not None
    net = classifier(x, train.labels, 100 if quick else 1500)
    right = float((net.told(y)[1].argmax(1) == test.labels).double().mean())
    print(f"the classifier names {right:.1%} of the test images rightly")
    return Case(name, model, y, x, test.data[:200, None], net)


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 512) -> float:
    """√ of the mean over directions of W₂² of the projections of x (n, D) and y (N, D), by their quantile functions."""
    w = random.normal(0, torch.arange(directions), 0, 0, (x.shape[1],), stream=random.Stream.PROBE)
    w = w / w.norm(dim=1, keepdim=True)
    u = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    quantiles = [(v @ w.T).sort(0).values[(u * len(v)).long()] for v in (x, y)]
    return float((quantiles[0] - quantiles[1]).square().mean().sqrt())


def frechet(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet distance of two normal laws with the moments of x (n, F) and y (N, F)."""

    def root(a: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(a)
        return vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)

    C, K = x.T.cov(), y.T.cov()
    half = root(C)
    cross = torch.linalg.eigvalsh(half @ K @ half).clamp(min=0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + C.trace() + K.trace() - 2 * cross)


def measured(c: Case, x: Tensor) -> dict[str, float]:
    """Every metric of x (n, 1, H, W)."""
    features, p = c.net.told(x)
    reference, q = c.net.told(c.images)
    shares = [torch.bincount(v.argmax(1), minlength=10).double() / len(v) for v in (p, q)]
    return {
        "frechet": frechet(features, reference),
        "sliced_wasserstein": sliced_wasserstein(x.flatten(1), c.images.flatten(1)),
        "entropy": float(-(p * p.clamp(min=1e-300).log()).sum(1).mean()),
        "labels": float((shares[0] - shares[1]).abs().sum() / 2),
    }


def drawn(c: Case, n: int, sampler: str, grid: str | Grid, evaluations: int, start: Tensor | None = None) -> Tensor:
    """Samples as values (n, 1, H, W)."""
    own = int(c.model.decoder.calls_network)
    steps = (evaluations - own) // nelbo.samplers.NAMED[sampler].evaluations + own
    if isinstance(grid, str) and grid == "bound":
        grid = nelbo.grids.of_bound(nelbo.evaluate(c.model, c.codes, seed=1), steps)
        x = nelbo.sample(c.model, n, sampler=sampler, grid=grid, start=start, codes=False)
    else:
        x = nelbo.sample(c.model, n, sampler=sampler, steps=steps, grid=grid, start=start, codes=False)
    return c.shaped(x)


def run(c: Case, n: int, budgets: tuple[int, ...], file: Path) -> dict[str, dict[str, float]]:
    """Every row that the file does not have yet; "images" are images of the other half."""
    found: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    rows = [(s, g, b) for s, g in ROWS for b in budgets]
    full = c.model.steps or 250
    rows += [("ancestral", "even", full)]
    if "images" not in found:
        found["images"] = measured(c, c.others[:n])
    for sampler, grid, budget in rows:
        key = f"{sampler} {grid} {budget}"
        if key not in found:
            found[key] = measured(c, drawn(c, n, sampler, grid, budget))
            write_atomic(file, json.dumps(found, indent=1) + "\n")
            print(key, {k: round(v, 4) for k, v in found[key].items()}, flush=True)
    return found


def table(found: dict[str, dict[str, float]], metric: str, budgets: tuple[int, ...]) -> str:
    """Markdown: samplers and grids by evaluations."""
    lines = ["| sampler | grid | " + " | ".join(map(str, budgets)) + " |", "|-|-|" + "-|" * len(budgets)]
    for sampler, grid in ROWS:
        cells = [f"{found[f'{sampler} {grid} {b}'][metric]:.3f}" for b in budgets]
        lines.append(f"| {sampler} | {grid} | " + " | ".join(cells) + " |")
    (full,) = (k for k in found if k.startswith("ancestral even") and int(k.split()[-1]) not in BUDGETS)
    told = (
        f"ancestral, {full.split()[-1]} evaluations: {found[full][metric]:.3f}; images: {found['images'][metric]:.3f}"
    )
    return "\n".join([*lines, "", told])


def figure(results: dict[str, dict[str, dict[str, float]]], budgets: tuple[int, ...], out: Path) -> None:
    """Distance against evaluations, on logarithmic axes: a column a model, a row a distance."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    shown = {"frechet": "Fréchet distance of features", "sliced_wasserstein": "sliced Wasserstein distance"}
    lines = (
        ("ancestral", "even", "C0", "o-"), ("ddim", "even", "C1", "s-"), ("ddim", "logsnr", "C1", "s:"),
        ("heun", "karras", "C2", "^-"), ("dpmpp_2m", "even", "C3", "D-"), ("dpmpp_2m", "logsnr", "C3", "D:"),
        ("dpmpp_2m_sde", "logsnr", "C4", "v:"),
    )  # fmt: skip
    fig, axes = plt.subplots(len(shown), len(results), figsize=(4.6 * len(results), 6.4), squeeze=False, sharex=True)
    for column, (name, found) in enumerate(results.items()):
        for row, (metric, label) in enumerate(shown.items()):
            ax = axes[row, column]
            for sampler, grid, colour, style in lines:
                values = [found[f"{sampler} {grid} {b}"][metric] for b in budgets]
                ax.loglog(budgets, values, style, color=colour, ms=4, lw=1.3, label=f"{sampler}, {grid}")
            ax.axhline(found["images"][metric], color="0.5", lw=1, ls="--", label="other images")
            ax.set_xticks(budgets, [str(b) for b in budgets])
            ax.minorticks_off()
            ax.set_ylabel(label if column == 0 else "")
            ax.set_title(name if row == 0 else "", fontsize=11)
            ax.set_xlabel("network evaluations a sample" if row == len(shown) - 1 else "")
            ax.grid(alpha=0.25)
    axes[0, 0].legend(fontsize=7, frameon=False)
    fig.tight_layout()
    for kind in ("png", "svg"):
        fig.savefig(f"{out}.{kind}", dpi=110, metadata={"Date": None} if kind == "svg" else None)


def sheet(c: Case, budgets: tuple[int, ...], out: Path) -> None:
    """The first twelve samples: a row a number of evaluations, DDIM on even times above DPM-Solver++ 2M on even λ."""
    eps = random.normal(0, torch.arange(12), 0, 0, c.model.domain.shape, stream=random.Stream.SAMPLE)
    start = c.model.prior.draw(eps)
    rows = [drawn(c, 12, s, g, b, start) for s, g in (("ddim", "even"), ("dpmpp_2m", "logsnr")) for b in budgets]
    write_atomic(out, pictures.grid(torch.cat(rows).clamp(-1, 1).numpy(), -1.0, 1.0, columns=12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--only", nargs="+", choices=["digits", "fashion"], default=["digits", "fashion"])
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    budgets, n = (BUDGETS[:2], 64) if options.quick else (BUDGETS, options.n)
    options.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in options.only:
        c = case(name, options.quick)
        results[name] = run(c, n, budgets, options.out / f"{name}{'-quick' if options.quick else ''}.json")
        sheet(c, budgets, options.out / f"{name}.png")
        for metric in METRICS:
            print(f"\n{name}: {metric}\n\n{table(results[name], metric, budgets)}")
    figure(results, budgets, options.out / "quality")


if __name__ == "__main__":
    main()
