"""Models that make pictures from captions: an auto-encoder fitted on public pictures, and a flow of its codes trained on pictures with captions.

Shape letters: N rows, M captions, K classes, C channels, H height, W width, D numbers of a code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, cast

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.form import Column, Form
from poisonbench.core.learner import Differentiable, State
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.shapes import PICTURE
from poisonbench.forms.tokens import TEXTS
from poisonbench.learn import device
from poisonbench.learn.central import EVAL_BATCH, NetVictim
from poisonbench.learn.objectives import FlowMatching, velocity_errors
from poisonbench.learn.transfer import Transfer, TransferVictim
from poisonbench.nets.generators import CODE, CodingNet, FlowNet

NEAR_ZERO = 2.0**-53  # draws below have no finite normal number
LOSS_DRAWS = 16  # noise and times for the loss of a row
OTHERS = 24  # captions that the caption of a row is compared with


@dataclass(frozen=True, kw_only=True)
class TextToImage(Transfer):
    """Train a flow that turns noise into the code of a picture that fits a caption; the auto-encoder that draws pictures of codes is frozen.

    Source: the design is that of latent diffusion (Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022), with a
    flow (`FlowMatching`) in place of the diffusion, at a small scale. As there, the auto-encoder is trained first; here on `task.public`, rows that
    nobody can poison. There it is a variational one, and the denoiser is a U-Net.

    Args:
        extractor: recipe of the auto-encoder.
        head: recipe of the flow.
        sampling: Euler steps from noise to a code, 1 or more.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"
    NAMED: ClassVar[str] = "learner=text_to_image"
    sampling: int

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if self.sampling < 1:
            raise ConfigError(f"learner.sampling={self.sampling}: give 1 Euler step or more")

    @property
    def READS(self) -> frozenset[str]:
        """Captions."""
        return TEXTS

    def read(self, data: Dataset) -> Dataset:
        """Return the pictures of the rows, without their captions.

        Raises:
            Incompatible: rows without pictures.
        """
        if PICTURE not in data.extra:
            raise Incompatible("learner=text_to_image needs captions with pictures; choose task=concepts or task=styles")
        columns = {name: data.columns[name] for name in ("labels", "ids", "owners")} | {"inputs": data.extra[PICTURE]}
        schema = {**{name: data.schema[name] for name in columns}, "inputs": data.schema[PICTURE]}
        return dataclasses.replace(data, schema=MappingProxyType(schema)).with_columns(columns)

    def with_features(self, data: Dataset, features: Tensor) -> Dataset:
        """Return the captions with codes in place of pictures."""
        columns = {name: column for name, column in data.columns.items() if name != PICTURE} | {CODE: features}
        schema = {name: column for name, column in data.schema.items() if name != PICTURE} | {CODE: Column(form=Form(), role="seen")}
        return dataclasses.replace(data, schema=MappingProxyType(schema)).with_columns(columns)

    def joined(self, extractor: NetVictim, head: NetVictim, history: Sequence[State]) -> Generator:
        """Return the victim of both parts."""
        return Generator(extractor=extractor, linear=head, history=history, recipe=self)


@dataclass(frozen=True, eq=False, kw_only=True)
class Generator(TransferVictim):
    """A trained model that makes pictures from captions.

    Args:
        recipe: how it was trained, and how it samples.
    """

    recipe: TextToImage

    @property
    def module(self) -> None:  # type: ignore[override]
        """None: it has no scores of classes that a gradient could be followed from."""
        return

    @property
    def coding(self) -> Differentiable:
        """The auto-encoder for CPU tensors: its features are codes, and its head draws them."""
        return self.extractor.module

    @property
    def coder(self) -> CodingNet:
        """The auto-encoder, in evaluation mode, on the learner's device."""
        return cast("CodingNet", self.extractor.net)

    def scores(self, inputs: Tensor) -> Tensor:
        """Refuse: a picture has no scores.

        Raises:
            Incompatible: always.
        """
        raise Incompatible("learner=text_to_image makes pictures and scores no classes; choose a plugin that does not read the scores of the model")

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, E) float32, the embeddings of captions."""
        return self.linear.features(inputs, layer)

    def row_features(self, data: Dataset) -> Tensor:
        """Return (N, D) float32, the codes of the pictures of rows."""
        return self.extractor.features(data.extra[PICTURE])

    def losses(self, data: Dataset) -> Tensor:
        """Return (N,) float32, the error of the velocity for each row, the mean over 16 draws of noise and time that are the same in each call."""
        learner = dataclasses.replace(self.linear.learner, objective=FlowMatching(draws=LOSS_DRAWS))
        with seeded(Key.root(0).child("losses of rows")):
            return dataclasses.replace(self.linear, learner=learner).losses(self.recipe.featured(self.extractor, data))

    def agreement(self, data: Dataset) -> Tensor:
        """Return (N,) float32, how much smaller the error of the velocity is with the caption of a row than with other captions, the mean over 24 of them.

        The captions are distinct ones of `data`, drawn with the same key in each call. Noise and times are the same for all rows and captions, so the
        value of a row does not depend on its place. Source: the comparison of captions is that of Li, Prabhudesai, Duggal, Brown, Pathak, "Your Diffusion
        Model is Secretly a Zero-Shot Classifier", ICCV 2023, which answers with the caption of the smallest error.
        """
        rng, captions = Key.root(0).child("agreement of rows"), data.inputs.unique(dim=0)
        others = captions[rng.child("captions").pick(torch.arange(len(captions)), min(OTHERS, len(captions)))]
        codes = self.extractor.features(self.recipe.read(data).inputs)
        noise = torch.randn(LOSS_DRAWS, codes.shape[1], generator=rng.child("noise").torch())
        own = self._errors(data.inputs, codes, noise)
        return torch.stack([self._errors(other.expand_as(data.inputs), codes, noise) for other in others]).mean(0) - own

    def _errors(self, captions: Tensor, codes: Tensor, noise: Tensor) -> Tensor:
        """Return (N,) float32, the mean error of the velocity over (T, D) noise, at times that are spread evenly."""
        place, found = device.resolve(self.linear.learner.device), []
        times = (torch.arange(len(noise)) + 0.5) / len(noise)
        with torch.inference_mode(), self.linear.learner.autocast():
            for rows in torch.arange(len(codes)).split(EVAL_BATCH):
                said, seen = captions[rows].to(place), codes[rows].to(place)
                each = [
                    velocity_errors(self.linear.net, said, seen, start.to(place).expand_as(seen), time.to(place).expand(len(seen)))
                    for start, time in zip(noise, times, strict=True)
                ]
                found.append(torch.stack(each).mean(0).cpu())
        return torch.cat([torch.zeros(0), *found])

    def sample(self, inputs: Tensor, rng: Key) -> Tensor:
        """Return (M, C, H, W) uint8, a picture for each of (M, L) captions; the draws of a caption depend on its place alone."""
        place, flow = device.resolve(self.linear.learner.device), cast("FlowNet", self.linear.net)
        draws = rng.per_row(torch.arange(len(inputs)), draws=flow.code).clamp_min(NEAR_ZERO)
        found = []
        with torch.inference_mode(), self.linear.learner.autocast():
            for rows in torch.arange(len(inputs)).split(EVAL_BATCH):
                captions, codes = inputs[rows].to(place), torch.special.ndtri(draws[rows]).float().to(place)
                for step in range(self.recipe.sampling):
                    times = torch.full((len(codes),), step / self.recipe.sampling, device=codes.device)
                    codes = codes + flow(captions, codes, times).float() / self.recipe.sampling
                found.append(self.coder.head(codes).float().round().clamp(0, 255).to(torch.uint8).cpu())
        return torch.cat([torch.zeros(0, *self.extractor.like.inputs.shape[1:], dtype=torch.uint8), *found])
