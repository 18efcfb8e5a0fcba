import pytest
import torch

from poisonbench.core.data import Dataset
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.pixels import Pixels
from poisonbench.nets.fast import FastCNN
from poisonbench.nets.resnet import PreActResNet18
from poisonbench.nets.small import MLP, SmallCNN

NETS = [
    (SmallCNN(widths=(4, 6, 8), depths=(1, 2, 1), pool="max", norm="batch"), [(4, 16, 16), (6, 8, 8), (8,)]),
    (FastCNN(widths=(4, 6), pool="max", norm="batch", scale=0.1, whiten_eps=1e-3), [(4, 15, 15), (6, 8, 8), (6,)]),
    (PreActResNet18(pool="average", norm="batch"), [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512,)]),
    (MLP(widths=(5,), norm="none"), [(5,)]),
]


@pytest.mark.parametrize(("net", "shapes"), NETS)
def test_activations_are_the_last_maps_of_each_resolution_and_end_with_the_features(net, shapes):
    pixels = torch.randint(0, 256, (3, 1, 16, 16), generator=Key.root(0).torch()).to(torch.uint8)
    data = Dataset.of(pixels, torch.arange(3), num_classes=3, form=Pixels())
    with seeded(Key.root(0)):
        module = net.build(data).eval()
    module.prepare(pixels)
    layers = module.activations(pixels.float())
    assert [tuple(layer.shape[1:]) for layer in layers] == shapes
    assert torch.equal(layers[-1], module.features(pixels.float()))
