"""Networks of learned re-ranking: AMES, ELViS, and the detector that selects their local descriptors.

Reimplemented from the papers and the behaviour of the authors' code (github.com/pavelsuma/ames and
github.com/pavelsuma/ELViS, both Apache-2.0; no code was copied). Tensors have the names and shapes of the published
checkpoints. Importing this module imports torch: import it inside functions.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

WIDTH = 128
"""Dimensions of a projected local descriptor."""


class Detector(nn.Module):
    """Scores the cells of a feature map: two layers per cell.

    Args:
        channels: C, dimensions of a cell.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, 1, 1)

    def forward(self, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, C) cells -> (N, C) refined features, and (N,) attention, above 0."""
        features = self.bn(self.conv1(cells[:, :, None, None]))
        return features.flatten(1), functional.softplus(self.conv2(functional.relu(features))).flatten()


class Signs(nn.Module):
    """Binarisation: the signs of a projection (ITQ).

    Args:
        channels: C, dimensions of a descriptor.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(channels, WIDTH))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, `WIDTH`) of -1, 0 and 1."""
        return torch.sign(rows @ self.W)


class Matcher(nn.Module):
    """Base class: similarity of two pictures from their local descriptors.

    Args:
        channels: C, dimensions of a local descriptor.
        binary: Whether descriptors are binarised first.

    Attributes:
        title: Display name.
        of_detector: Whether it compares the detector's refined features instead of the cells.
        gallery_descriptors: Descriptors per gallery picture in the authors' evaluation.
        fusions: lambda and gamma of that evaluation (see `learned`), for full and for binary descriptors.
    """

    title: ClassVar[str]
    of_detector: ClassVar[bool]
    gallery_descriptors: ClassVar[int]
    fusions: ClassVar[tuple[tuple[float, float], tuple[float, float]]]

    def __init__(self, channels: int, binary: bool) -> None:
        super().__init__()
        self.channels, self.binary = channels, binary
        first = [Signs(channels), nn.Linear(WIDTH, WIDTH)] if binary else [nn.Linear(channels, WIDTH)]
        self.remap_local = nn.Sequential(*first, nn.LayerNorm(WIDTH))

    def describe(self, cells: torch.Tensor) -> torch.Tensor:
        """(N, C) cells of a picture -> (N, `WIDTH`) descriptors for `forward`."""
        descriptors: torch.Tensor = self.remap_local(functional.normalize(cells, dim=1))
        return descriptors

    def forward(self, query: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """(Q, `WIDTH`) and (G, `WIDTH`), from `describe` -> similarity, an unbounded scalar."""
        raise NotImplementedError


class Layer(nn.Module):
    """Transformer layer: self-attention within each picture, cross-attention between them, MLP; post-norm."""

    HEADS, INNER = 2, 1024

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, self.HEADS, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(WIDTH, self.HEADS, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(WIDTH, self.INNER), nn.Linear(self.INNER, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, tokens: torch.Tensor, others: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Tokens (1, T, `WIDTH`); (T, T) bool masks of hidden tokens for self- and cross-attention."""
        for attention, hidden, norm in ((self.self_attn, others, self.norm1), (self.cross_attn, own, self.norm2)):
            seen, _ = attention(tokens, tokens, tokens, attn_mask=hidden, need_weights=False)
            tokens = norm(tokens + seen)
        output: torch.Tensor = self.norm3(tokens + self.linear2(functional.relu(self.linear1(tokens))))
        return output


class Ames(Matcher):
    """AMES (Suma et al., "AMES: Asymmetric and Memory-Efficient Similarity Estimation", ECCV 2024).

    A transformer of five layers over a matching token and the descriptors of both pictures, without positions; the
    attention masks separate the pictures. The matching token attends to all tokens, and all attend to it.
    """

    title, of_detector, gallery_descriptors = "AMES", True, 50
    fusions = (0.55, 0.3), (0.35, 0.1)  # from the README, for DINOv2
    LAYERS = 5

    def __init__(self, channels: int, binary: bool) -> None:
        super().__init__(channels, binary)
        self.mtc_token = nn.Parameter(torch.zeros(WIDTH))
        self.decoder = nn.ModuleDict({"layers": nn.ModuleList(Layer() for _ in range(self.LAYERS))})
        self.classifier = nn.Linear(WIDTH, 1)

    def forward(self, query: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """See `Matcher.forward`: the logit of the matching token."""
        if not self.binary:  # as in the authors' evaluation, which stores the gallery in float16
            gallery = gallery.half().float()
        tokens = torch.cat([self.mtc_token[None], query, gallery])[None]
        sides = torch.tensor([0] + [1] * len(query) + [2] * len(gallery), device=tokens.device)
        pairs = sides[:, None] * sides  # 0 with the matching token, 1 and 4 within a picture, 2 between the two
        for layer in self.decoder["layers"].children():
            tokens = layer(tokens, pairs == 2, (pairs == 1) | (pairs == 4))
        logit: torch.Tensor = self.classifier(tokens[0, 0])[0]
        return logit


class Elvis(Matcher):
    """ELViS (Suma et al., "ELViS: Efficient Visual Similarity from Local Descriptors ...", ICLR 2026).

    Cosine similarities of all pairs of descriptors go through Sinkhorn's algorithm with a dust bin for unmatched
    descriptors. The best assignment of each descriptor, of both pictures, casts a vote between 0 and 1. Pictures with
    few descriptors are not padded, as in the authors' demo.
    """

    title, of_detector, gallery_descriptors = "ELViS", False, 600
    fusions = (0.5, 0.5), (0.5, 0.5)  # from the test configuration; the README states none
    STEPS, INVERSE_TEMPERATURE = 10, 10.0

    def __init__(self, channels: int, binary: bool) -> None:
        super().__init__(channels, binary)
        self.f = nn.Sequential(nn.Linear(1, 16), nn.LayerNorm(16, eps=1e-6), nn.GELU(), nn.Linear(16, 1))
        self.g = nn.Sequential(nn.Linear(1, 64), nn.GELU(), nn.Linear(64, 1))
        self.dust_bin = nn.Parameter(torch.tensor(1.0))
        self.dust_bin_mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1), nn.Tanh())

    def describe(self, cells: torch.Tensor) -> torch.Tensor:
        """See `Matcher.describe`; rows of length 1."""
        return functional.normalize(super().describe(cells), dim=1)

    def forward(self, query: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """See `Matcher.forward`: the sum of the votes, 0 to Q + G."""
        to_bin, from_bin = self.dust_bin_mlp(query), self.dust_bin_mlp(gallery).T
        gains = torch.cat([query @ gallery.T, to_bin], 1)
        gains = torch.cat([gains, torch.cat([from_bin, self.dust_bin.view(1, 1)], 1)])
        masses = self._balanced(gains * self.INVERSE_TEMPERATURE)[:-1, :-1]
        best = torch.cat([masses.amax(1), masses.amax(0)])
        votes: torch.Tensor = torch.sigmoid(self.f(best[:, None])).sum()
        return votes

    def _balanced(self, gains: torch.Tensor) -> torch.Tensor:
        """Return the approximate transport plan (Q + 1, G + 1); rows sum to 1, the last to G; columns to 1 and Q."""
        query, gallery = gains.shape[0] - 1, gains.shape[1] - 1
        rows, columns = gains.new_zeros(query + 1), gains.new_zeros(gallery + 1)
        rows[-1], columns[-1] = math.log(gallery), math.log(query)
        down = torch.zeros_like(columns)
        for _ in range(self.STEPS):
            across = rows - torch.logsumexp(gains + down, 1)
            down = columns - torch.logsumexp(gains + across[:, None], 0)
        return torch.exp(gains + across[:, None] + down)


MATCHERS: dict[str, type[Matcher]] = {"ames": Ames, "elvis": Elvis}
"""Matchers by re-ranker name."""
