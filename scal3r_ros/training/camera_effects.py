"""What a camera does to what it sees: exposure, colour, blur, noise, compression."""

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Images = Float[Tensor, "s h w 3"]
JPEG_QUALITY = (35, 95)


def degrade(images: Images, rng: np.random.Generator) -> Images:
    """As a good camera in fair light does it."""
    x = _exposed(images, rng, float(rng.uniform(0.3, 0.55)))
    if rng.random() < 0.5:
        k = float(rng.uniform(0.05, 0.25))
        kernel = torch.tensor([k, 1 - 2 * k, k])
        x = _filtered(x, kernel[:, None] * kernel)
    return _noisy(x, rng, 0.03)


def degrade_harshly(images: Images, rng: np.random.Generator) -> Images:
    """Now and then in the dark, out of focus, in motion, compressed."""
    x = _exposed(images, rng, float(rng.uniform(0.15, 0.65)))
    if rng.random() < 0.3:
        x = _out_of_focus(x, rng)
    if rng.random() < 0.3:
        x = _in_motion(x, rng)
    x = _noisy(x, rng, 0.05)
    return _compressed(x, int(rng.integers(*JPEG_QUALITY))) if rng.random() < 0.5 else x


def _exposed(images: Images, rng: np.random.Generator, brightness: float) -> Images:
    """The clip's mean brightness is regulated, and drifts; white balance, gamma, vignette."""
    s, h, w = images.shape[:3]
    gain = brightness / float(images.mean().clamp_min(1e-3))
    drift = np.exp(np.cumsum(rng.normal(0, 0.02, s)))
    balance = torch.tensor(rng.uniform(0.85, 1.15, 3), dtype=torch.float32)
    gains = torch.tensor(gain * drift, dtype=torch.float32)[:, None, None, None] * balance
    x = images * gains.to(images.device)
    x = x.clamp(1e-4, 1) ** float(rng.uniform(0.7, 1.4))
    v, u = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    vignette = 1 - float(rng.uniform(0, 0.3)) * (u * u + v * v) / 2
    return x * vignette[..., None].to(x.device)


def _filtered(images: Images, kernel: Float[Tensor, "k k"]) -> Images:
    """Every colour by itself; edges repeat."""
    weights = kernel.to(images.device).expand(3, 1, *kernel.shape).contiguous()
    x = functional.pad(images.permute(0, 3, 1, 2), (kernel.shape[0] // 2,) * 4, mode="replicate")
    return functional.conv2d(x, weights, groups=3).permute(0, 2, 3, 1)


def _out_of_focus(images: Images, rng: np.random.Generator) -> Images:
    radius = float(rng.uniform(0.8, 2.2))
    v, u = torch.meshgrid(torch.arange(-3, 4), torch.arange(-3, 4), indexing="ij")
    disc = (radius + 0.5 - (u * u + v * v).sqrt()).clamp(0, 1)
    return _filtered(images, disc / disc.sum())


def _in_motion(images: Images, rng: np.random.Generator) -> Images:
    """A streak of a few pixels, another in every image."""
    streaked = []
    for image in images:
        length, angle = float(rng.uniform(0, 6)), float(rng.uniform(0, np.pi))
        kernel = torch.zeros(7, 7)
        for along in np.linspace(-length / 2, length / 2, 13):
            row, column = 3 + along * np.sin(angle), 3 + along * np.cos(angle)
            kernel[round(row), round(column)] += 1 / 13
        streaked.append(_filtered(image[None], kernel)[0])
    return torch.stack(streaked)


def _noisy(images: Images, rng: np.random.Generator, most: float) -> Images:
    seeded = torch.Generator().manual_seed(int(rng.integers(2**31)))
    noise = torch.randn(images.shape, generator=seeded) * float(rng.uniform(0, most))
    return images + noise.to(images.device)


def _compressed(images: Images, quality: int) -> Images:
    """JPEG and back."""
    pixels = (images.clamp(0, 1) * 255).round().byte().cpu().numpy()
    there_and_back = [
        cv2.imdecode(
            cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR
        )
        for image in pixels
    ]
    return torch.from_numpy(np.stack(there_and_back)).to(images.device).float() / 255
