"""What a run trains on and what it trains, in lines for a person, before it begins."""

from __future__ import annotations

from nelbo.model.examples import described
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.model import TokenModel
from nelbo.training.config import TrainConfig
from nelbo.training.data import AnyModel, TrainingData


def summary(data: TrainingData, model: AnyModel, settings: TrainConfig) -> list[str]:
    """Lines on examples, shape and codes, classes, network; and on what the data hold besides."""
    examples, domain = data.examples, model.domain
    count = f"{len(data.rows)} of {examples.name}"
    if len(data.held_out):
        count += f", {len(data.held_out)} {'of ' + data.held_out.name if data.separate else 'held out'} to validate on"
    if isinstance(model, TokenModel):
        values = f"{model.domain.vocabulary} symbols, {settings.tokens.kernel} noise"
    else:
        values = f"{model.domain.bins} bins" if model.domain.discrete else "real values"
    facts = described(examples.facts)
    classes = facts.pop("classes", None)
    if settings.condition is None:
        classes = "none used" if examples.labels is None else "labels in the data, which the network does not take"
    elif examples.labels is not None:
        number = max(int(examples.labels.max()) + 1, len(examples.classes))
        classes = f"{number} by the keyword {settings.condition}" + (f": {classes}" if classes else "")
    if isinstance(model, LatentModel):
        values += f", latents of {' × '.join(map(str, model.latent_shape))}"
    head = "" if settings.net.head == "plain" or isinstance(model, TokenModel) else f"{settings.net.head} head, "
    lines = {
        "examples": count,
        "shape": f"{' × '.join(map(str, domain.shape))}, {values}",
        "classes": classes or "none used",
        "network": f"{settings.net.name}, {head}{model.parameters:,} parameters, {settings.steps} steps of "
        f"{settings.batch_size} examples",
        **facts,
    }
    return [f"{name:<13} {text}" for name, text in lines.items()]
