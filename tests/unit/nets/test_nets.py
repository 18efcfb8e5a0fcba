import pytest
import torch
from torch import nn

from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key, seeded
from poisonbench.nets.fast import FastCNN
from poisonbench.nets.net import Normalized, norm
from poisonbench.nets.own import OwnNet
from poisonbench.nets.resnet import PreActResNet18
from poisonbench.nets.small import MLP, Linear, PyramidCNN, SmallCNN
from tests.unit.nets.likes import like

NETS = [
    (SmallCNN(widths=(8, 16), depths=(2, 1), pool="max", norm="batch"), (1, 8, 8)),
    (SmallCNN(widths=(8, 16, 32), depths=(1, 1, 1), pool="average", norm="group"), (3, 32, 32)),
    (PyramidCNN(top=32, rest=8, pool="max", norm="batch"), (3, 30, 60)),
    (PyramidCNN(top=16, rest=4, pool="average", norm="group"), (1, 28, 28)),
    (PreActResNet18(pool="average", norm="batch"), (3, 32, 32)),
    (PreActResNet18(pool="max", norm="group"), (3, 32, 32)),
    (FastCNN(widths=(8, 16), pool="max", norm="batch", scale=0.5, whiten_eps=0.001), (3, 16, 16)),
    (FastCNN(widths=(8, 16, 16), pool="average", norm="group", scale=0.5, whiten_eps=0.001), (1, 28, 28)),
    (MLP(widths=(16, 12), norm="none"), (1, 8, 8)),
    (MLP(widths=(16,), norm="group"), (3, 4, 4)),
    (Linear(norm="none"), (1, 8, 8)),
    (Linear(norm="group"), (3, 4, 4)),
]


@pytest.mark.parametrize(("net", "shape"), NETS)
def test_forward_is_the_head_of_the_features(net, shape):
    with seeded(Key.root(0)):
        module = net.build(like(shape, 7)).net.eval()
        inputs = torch.rand(3, *shape)
    features = module.features(inputs)
    assert features.ndim == 2
    assert module(inputs).shape == (3, 7)
    torch.testing.assert_close(module(inputs), module.head(features))


@pytest.mark.parametrize(
    ("net", "shape"), [*NETS, (OwnNet(make=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 7)), shape=(1, 4, 4), num_classes=7), (1, 4, 4))]
)
def test_pixels_are_lifted_as_they_are(net, shape):
    module = net.build(like(shape, 7)).eval()
    inputs = torch.arange(2 * torch.Size(shape).numel(), dtype=torch.uint8).view(2, *shape)
    assert module.lift(inputs).dtype == torch.float32
    assert torch.equal(module.lift(inputs).long(), inputs.long())
    torch.testing.assert_close(module(module.lift(inputs)), module.head(module.features(inputs.float())))


@pytest.mark.parametrize(("net", "shape"), [case for case in NETS if case[0].norm == "group"])
def test_group_variants_hold_no_batch_statistics(net, shape):
    module = net.build(like(shape, 7)).net
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())
    inputs = torch.rand(4, *shape)
    torch.testing.assert_close(module(inputs)[:1], module(inputs[:1]))


def test_pooling_is_what_it_says():
    maps = torch.rand(2, 3, 4, 4)
    for pool, expected in (("max", maps.amax((2, 3))), ("average", maps.mean((2, 3)))):
        module = SmallCNN(widths=(3,), depths=(1,), pool=pool, norm="batch").build(like((3, 4, 4), 2)).net
        module.blocks = nn.Identity()
        assert torch.equal(module.features(maps), expected)


PYRAMID = PyramidCNN(top=128, rest=8, pool="max", norm="batch")


@pytest.mark.parametrize(
    ("side", "widths"),
    [(8, (32, 64, 128)), (28, (32, 64, 128)), (32, (32, 64, 128)), (33, (16, 32, 64, 128)), (64, (16, 32, 64, 128)), (224, (8, 8, 16, 32, 64, 128))],
)
def test_a_larger_image_has_more_blocks_of_fewer_channels(side, widths):
    assert PYRAMID.widths(side) == widths
    assert [layer.out_channels for layer in PYRAMID.build(like((3, side, side + 1), 5)).net.modules() if isinstance(layer, nn.Conv2d)] == list(widths)


def test_arithmetic_grows_with_the_side_of_the_image_and_not_with_its_square():
    def products(side):
        counted = []
        module = PYRAMID.build(like((3, side, side), 10)).net
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda layer, _, maps: counted.append(maps[0, 0].numel() * layer.weight.numel()))
        module.eval()(torch.zeros(1, 3, side, side))
        return sum(counted)

    assert products(32) == 1024 * 27 * 32 + 256 * 9 * 32 * 64 + 64 * 9 * 64 * 128
    assert 3 < products(224) / products(32) < 3.3


@pytest.mark.parametrize(("top", "rest"), [(7, 8), (128, 0)])
def test_a_pyramid_of_no_size_is_refused(top, rest):
    with pytest.raises(ConfigError, match=r"net\.top="):
        PyramidCNN(top=top, rest=rest, pool="max", norm="batch")


def test_the_residual_network_has_the_published_size():
    module = PreActResNet18(pool="average", norm="batch").build(like((3, 32, 32), 10)).net
    assert sum(weight.numel() for weight in module.parameters()) == 11_172_170


def test_groups_divide_the_channels():
    assert norm("group", 32).num_groups == 8
    assert norm("group", 3).num_groups == 1
    assert norm("group", 12).num_groups == 6


def test_normalisation_measures_each_channel():
    inputs = torch.stack([torch.arange(8.0).reshape(2, 2, 2), torch.full((2, 2, 2), 5.0)], dim=1)
    layer = Normalized.over(inputs)
    torch.testing.assert_close(layer.mean, torch.tensor([3.5, 5.0]))
    torch.testing.assert_close(layer.std, torch.tensor([5.25**0.5, 1.0]))
    assert layer(inputs)[:, 1].abs().max() == 0


@pytest.mark.parametrize("net", [SmallCNN(widths=(4,) * 5, depths=(1,) * 5, pool="max", norm="batch"), PreActResNet18(pool="max", norm="batch")])
def test_images_that_are_too_small_are_refused(net):
    with pytest.raises(ConfigError, match="images"):
        net.build(like((1, 8, 8), 10))


def tower() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))


def own(make, shape=(1, 4, 4), num_classes=3, name=None) -> OwnNet:
    return OwnNet(make=make, shape=shape, num_classes=num_classes, name=name)


def test_an_own_network_is_split_at_its_last_linear_layer():
    with seeded(Key.root(0)):
        module = own(tower).build(like((1, 4, 4), 3)).net
    inputs = torch.rand(2, 1, 4, 4)
    assert module.features(inputs).shape == (2, 5)
    torch.testing.assert_close(module.head(module.features(inputs)), module(inputs))
    assert len(list(module.parameters())) == 4


def test_an_own_module_starts_from_its_weights_and_a_function_from_the_seed():
    held = tower()
    one, other = (own(held).build(like((1, 4, 4), 3)).net.module for _ in range(2))
    assert torch.equal(one[1].weight, held[1].weight)
    assert one is not other
    with seeded(Key.root(0)):
        first = own(tower).build(like((1, 4, 4), 3)).net.module[1].weight
    with seeded(Key.root(1)):
        second = own(tower).build(like((1, 4, 4), 3)).net.module[1].weight
    assert not torch.equal(first, second)


def test_an_own_network_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="scores 3 classes, the task has 4"):
        own(tower, num_classes=4)
    with pytest.raises(ConfigError, match="scores 16 classes, the task has 3"):
        own(nn.Flatten)
    with pytest.raises(ConfigError, match=r"give an nn\.Module, or a function that makes one"):
        own(3)
    with pytest.raises(ConfigError, match=r"your function returns int, not an nn\.Module"):
        own(lambda: 3)


FAST = FastCNN(widths=(32, 16), pool="max", norm="batch", scale=0.25, whiten_eps=0.0)


@pytest.fixture
def fast():
    """Return a fast network prepared on 300 pictures with similar neighbouring pixels, and those pictures."""
    with seeded(Key.root(0)):
        module = FAST.build(like((3, 8, 8), 5)).net
        inputs = nn.functional.avg_pool2d(torch.randn(300, 3, 9, 9), 2, 1)
    module.prepare(inputs)
    return module, inputs


def test_whitened_patches_are_uncorrelated_with_unit_variance_and_come_with_both_signs(fast):
    module, inputs = fast
    first = module.pooled.blocks[0]
    answers = nn.functional.conv2d(inputs, first.weight).transpose(0, 1).flatten(1)
    torch.testing.assert_close(answers[:12], -answers[12:])
    torch.testing.assert_close(answers[:12] @ answers[:12].T / answers.shape[1], torch.eye(12), atol=1e-3, rtol=0)


def test_convolutions_of_the_fast_network_start_as_the_identity_where_they_can():
    conv = FAST.build(like((3, 8, 8), 5)).net.pooled.blocks[2]
    inputs = torch.rand(2, 24, 6, 6)
    torch.testing.assert_close(conv(inputs)[:, :24], inputs)
    assert conv(inputs)[:, 24:].abs().sum() > 0


def test_in_the_fast_network_whitening_and_scales_stay_and_shifts_are_learned(fast):
    module, _ = fast
    fixed = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    norms = {name for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert fixed == {"pooled.blocks.0.weight", *(f"{name}.weight" for name in norms)}


def test_a_silenced_channel_of_the_fast_network_stays_silent_in_training(fast):
    module, inputs = fast
    dead = torch.zeros(16, dtype=torch.bool)
    dead[[2, 5]] = True
    module.silence(dead)
    optimizer = torch.optim.SGD([weight for weight in module.parameters() if weight.requires_grad], lr=1.0)
    module(inputs).square().mean().backward()
    optimizer.step()
    features = module.features(inputs)
    assert not features[:, dead].any()
    assert features[:, ~dead].abs().sum(0).all()


def test_every_pixel_reaches_the_features_of_the_fast_network(fast):
    module, inputs = fast
    seen = inputs.clone().requires_grad_()
    (module.pooled.blocks.eval()(seen)).square().sum().backward()
    assert (seen.grad.abs().sum((0, 1)) > 0).all()
    assert module.pooled.blocks(inputs[:1]).shape[2:] == (2, 2)  # 8 -> 7 -> 4 -> 2
