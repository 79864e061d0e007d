"""A folder of diffusers, UNet2DModel and scheduler as `save_pretrained` writes them: evaluated and written again."""

import tempfile
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from small import train

import nelbo

torch.manual_seed(0)
temporary = tempfile.TemporaryDirectory()
folder, evaluated = Path(temporary.name, "ddpm-digits"), Path(temporary.name, "evaluated")

# ---- their code: a pipeline, trained with diffusers alone and saved
scheduler = DDPMScheduler(200, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
net = UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip


def loss(x, y):
    eps, t = torch.randn_like(x), torch.randint(len(scheduler), (len(x),))
    v = scheduler.get_velocity(x, eps, t)
    return (net(scheduler.add_noise(x, eps, t), t).sample - v).square().mean()


train(net, loss, -1.0, 1.0, steps=80)
DDPMPipeline(net, scheduler).save_pretrained(folder)

# ---- nelbo: one line; a folder does not contain the number of codes of a pixel (256 by default)
model = nelbo.from_diffusers(folder, bins=17)
bound = nelbo.evaluate(model, "digits:test", tolerance=0.1)

# export: a folder that diffusers loads, with a model card that reports the bound
model.save_pretrained(evaluated, bound=bound)
images = DDPMPipeline.from_pretrained(evaluated)(batch_size=2, num_inference_steps=20, output_type="np").images

if __name__ == "__main__":
    print(bound)
    print(f"{len(images)} images of shape {images.shape[1:]} drawn from {evaluated.name}/, a folder with a model card")
