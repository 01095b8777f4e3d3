"""RQ-VAE: a network encodes the mean vector, residual codebooks quantise what comes out.

loss = |x - decoded|^2 + per level |sg(residual) - code|^2 + .25 |residual - sg(code)|^2, where sg
stops the gradient. Codebooks start at residual k-means; a code that nothing chose for a while moves
to an item; on the last level items are spread over the codes by Sinkhorn while it trains.
Source: Lee et al., CVPR 2022 (https://arxiv.org/abs/2203.01941), as TIGER uses it for SIDs
(https://arxiv.org/abs/2305.05065); Sinkhorn as in LC-Rec (https://arxiv.org/abs/2311.09049).
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from store_engine.files.npz import ArrayForm
from store_engine.sid.kmeans import Vectors
from store_engine.sid.quantizers.quantizer import Codes, FitSettings, Quantizer, check_fit
from store_engine.sid.quantizers.residual import residual_codebooks, residual_codes

_HIDDEN = 256  # units of the encoder's and the decoder's one hidden layer
_EPOCHS, _MAX_STEPS, _BATCH = 200, 3000, 1024
_LR, _COMMITMENT = 1e-3, 0.25
_RESET_EVERY = 50  # steps in which a code must have been chosen once
_SINKHORN_EPSILON, _SINKHORN_ROUNDS = 0.003, 20  # LC-Rec's epsilon, of distances within [-1, 1]


@dataclass(frozen=True)
class RqVaeQuantizer(Quantizer):
    """The encoder and the codebooks; the decoder is needed by the training alone."""

    hidden_weight: Vectors  # (hidden, dim)
    hidden_bias: Vectors  # (hidden,)
    latent_weight: Vectors  # (latent, hidden)
    latent_bias: Vectors  # (latent,)
    centroids: Vectors  # (num_codes, codebook_size, latent)

    prefix = "rq_vae_"
    forms: ClassVar = {
        "hidden_weight": ArrayForm("f", 2, True),
        "hidden_bias": ArrayForm("f", 1, True),
        "latent_weight": ArrayForm("f", 2, True),
        "latent_bias": ArrayForm("f", 1, True),
        "centroids": ArrayForm("f", 3, True),
    }

    def __post_init__(self) -> None:
        """Checks that the arrays fit each other.

        Raises:
            ValueError: They do not.
        """
        hidden, latent = len(self.hidden_bias), len(self.latent_bias)
        is_fit = len(self.hidden_weight) == hidden and self.latent_weight.shape == (latent, hidden)
        if not is_fit or self.centroids.shape[2] != latent:
            raise ValueError("the encoder and its centroids do not fit each other")

    @classmethod
    def fit(cls, vectors: Vectors, settings: FitSettings) -> Self:
        """Trains the network; `iterations` is of the k-means that the codebooks start from."""
        check_fit(vectors, settings)
        pooled = vectors.mean(1)
        mean, scale = pooled.mean(0), float(pooled.std()) or 1.0
        network = _train(torch.from_numpy((pooled - mean) / scale), settings)
        hidden, latent = network.hidden, network.latent
        # what is encoded later comes as it is
        weight = (hidden.weight.detach() / scale).numpy()
        return cls(
            weight,
            hidden.bias.detach().numpy() - weight @ mean,
            latent.weight.detach().numpy(),
            latent.bias.detach().numpy(),
            network.codebooks.detach().numpy(),
        )

    def distances(self, vectors: Vectors) -> Vectors:
        """Computes squared distances in the latent space, along the item's own codes."""
        return residual_codes(self._latent(vectors), self.centroids)[1]

    def encode(self, vectors: Vectors) -> Codes:
        """Finds level by level the nearest code: (num_items, num_codes) int32."""
        return residual_codes(self._latent(vectors), self.centroids)[0]

    def _latent(self, vectors: Vectors) -> Vectors:
        hidden = np.maximum(vectors.mean(1) @ self.hidden_weight.T + self.hidden_bias, 0)
        return hidden @ self.latent_weight.T + self.latent_bias


class _RqVae(nn.Module):
    def __init__(self, dim: int, settings: FitSettings) -> None:
        super().__init__()
        self.hidden, self.latent = nn.Linear(dim, _HIDDEN), nn.Linear(_HIDDEN, settings.pca_dim)
        self.decoder = nn.Sequential(
            nn.Linear(settings.pca_dim, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, dim)
        )
        shape = (settings.num_codes, settings.codebook_size, settings.pca_dim)
        self.codebooks = nn.Parameter(torch.zeros(shape))

    def encode(self, x: Tensor) -> Tensor:
        return self.latent(self.hidden(x).relu())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss, the codes (batch, num_codes), and what each level had to quantise."""
        latent = self.encode(x)
        residual, losses, codes, residuals = latent, [], [], []
        for level, codebook in enumerate(self.codebooks):
            is_last = level == len(self.codebooks) - 1
            distances = torch.cdist(residual.detach(), codebook.detach()).square()
            codes.append(_spread(distances) if is_last else distances.argmin(1))
            chosen = codebook[codes[-1]]
            losses.append(F.mse_loss(chosen, residual.detach()))
            losses.append(_COMMITMENT * F.mse_loss(residual, chosen.detach()))
            residuals.append(residual.detach())
            residual = residual - chosen.detach()
        quantised = latent - residual.detach()  # straight through: the codes' sum, with a gradient
        loss = F.mse_loss(self.decoder(quantised), x) + torch.stack(losses).sum()
        return loss, torch.stack(codes, 1), torch.stack(residuals, 1)


def _train(points: Tensor, settings: FitSettings) -> _RqVae:
    """Trains on points (num_items, dim), the same for the same seed."""
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = _RqVae(points.shape[1], settings)
    with torch.no_grad():
        latent = network.encode(points).numpy()
        network.codebooks.copy_(torch.from_numpy(residual_codebooks(latent, settings)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=0.0)
    is_idle = torch.ones(network.codebooks.shape[:2], dtype=torch.bool)
    steps_per_epoch = -(-len(points) // _BATCH)
    for step in range(min(_EPOCHS * steps_per_epoch, _MAX_STEPS)):
        if step % steps_per_epoch == 0:
            batches = torch.randperm(len(points), generator=generator).split(_BATCH)
        loss, codes, residuals = network(points[batches[step % steps_per_epoch]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        is_idle[torch.arange(codes.shape[1]), codes] = False
        if (step + 1) % max(_RESET_EVERY, steps_per_epoch) == 0:
            _reset_idle(network.codebooks, is_idle, residuals, generator)
            is_idle.fill_(True)
    return network


@torch.no_grad()
def _reset_idle(
    codebooks: Tensor, is_idle: Tensor, residuals: Tensor, generator: torch.Generator
) -> None:
    """Moves codes that nothing chose to what items of the last batch (n, num_codes, latent) had."""
    for level, idle in enumerate(is_idle):
        num_idle = int(idle.sum())
        items = torch.randint(len(residuals), (num_idle,), generator=generator)
        codebooks[level, idle] = residuals[items, level]


def _spread(distances: Tensor) -> Tensor:
    """Chooses codes so that each gets about as many items: Sinkhorn on (num_items, codebook_size).

    Returns:
        (num_items,) codes.
    """
    low, high = distances.min(), distances.max()
    middle, half = (low + high) / 2, ((high - low) / 2).clamp(min=1e-12)
    plan = (-(distances - middle) / half / _SINKHORN_EPSILON).double().exp()
    for _ in range(_SINKHORN_ROUNDS):
        plan /= plan.sum(0, keepdim=True)
        plan /= plan.sum(1, keepdim=True)
    return plan.argmax(1)
