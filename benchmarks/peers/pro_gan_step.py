"""The training step of pro-gan-pth 3.4, as its `train` makes it; requests on standard input.

Patched: its transposed convolution, which torch wants to be told the number of dimensions by now; beta_1, which has to
be a float by now; and the widths of its networks, which it fixes, narrowed alike for both. bf16 it does not know: there
autocast is put around its step.
"""

import contextlib
from typing import Any

import ready
import torch
import training
from pro_gan_pytorch import custom_layers, gan, losses, networks  # pyright: ignore[reportMissingImports]


def _output_padding(layer: Any, x: Any, size: Any, stride: Any, padding: Any, kernel: Any) -> list[int]:
    return torch.nn.ConvTranspose2d._output_padding(layer, x, size, stride, padding, kernel, 2)


custom_layers.EqualizedConvTranspose2d._output_padding = _output_padding


def answer(request: dict) -> dict:
    resolution, size, channels = request["resolution"], request["batch_size"], request["channels"]
    networks.nf = lambda stage: channels[stage - 1]
    torch.manual_seed(0)
    depth, number = len(channels) + 1, resolution.bit_length() - 1
    generator = networks.Generator(depth, 3, channels[0])
    critic = networks.Discriminator(depth, 3, channels[0])
    with contextlib.redirect_stdout(None):
        progan = gan.ProGAN(generator, critic)
    loss = losses.WganGP()
    adam = {"lr": 0.003, "betas": (0.0, 0.99), "eps": 1e-8}
    generator_adam = torch.optim.Adam(generator.parameters(), **adam)
    critic_adam = torch.optim.Adam(critic.parameters(), **adam)
    side = 4 * 2 ** (len(channels) - 1)
    reals = torch.rand(size, 3, side, side) * 2 - 1  # it takes the largest size and reduces it

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=request["precision"] == "bf16"):
            noise = torch.randn(size, channels[0])
            progan.optimize_discriminator(loss, critic_adam, noise, reals, number, 1.0)
            progan.optimize_generator(loss, generator_adam, noise, reals, number, 1.0)
            custom_layers.update_average(progan.gen_shadow, progan.gen, beta=progan.ema_beta)

    return training.measured(step, size, request["precision"], request["steps"])


ready.serve(answer)
