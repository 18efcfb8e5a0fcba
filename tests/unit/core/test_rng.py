import torch

from poisonbench.core.rng import Key, per_row_of_each, seeded


def reference(seed: int, ident: int, epoch: int, draw: int) -> float:
    """The same generator in Python's unbounded integers, reduced to 64 bits."""
    word = 2**64

    def mixed(value: int) -> int:
        value %= word
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % word
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % word
        return value ^ (value >> 31)

    row = mixed(mixed(ident * 0x9E3779B97F4A7C15 + seed) + epoch)
    return (mixed(row + (draw + 1) * 0x9E3779B97F4A7C15) >> 11) / 2**53


def test_draws_per_row_equal_a_reference_in_unbounded_integers():
    key = Key.root(3)
    ids = torch.tensor([0, 1, 7, -1, 2**40])
    drawn = key.per_row(ids, epoch=5, draws=3)
    for row, ident in enumerate(ids.tolist()):
        for draw in range(3):
            assert drawn[row, draw].item() == reference(key.seed, ident, 5, draw)


def test_a_row_keeps_its_draws_whatever_else_is_there():
    key, ids = Key.root(0), torch.arange(100)
    assert torch.equal(key.per_row(ids)[40:60], key.per_row(ids[40:60]))


def test_draws_per_row_are_uniform():
    drawn = Key.root(1).per_row(torch.arange(20000), draws=2)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for column in drawn.T:
        counts = torch.histc(column.float(), bins=20, min=0, max=1)
        chi_square = ((counts - 1000) ** 2 / 1000).sum().item()
        assert chi_square < 43.8  # 99.9 % quantile at 19 degrees of freedom
    assert abs(torch.corrcoef(drawn.T)[0, 1].item()) < 0.03


def test_siblings_and_epochs_draw_apart():
    key, ids = Key.root(0), torch.arange(50)
    streams = [key.per_row(ids), key.per_row(ids, 1), key.child("a").per_row(ids), key.child("b").per_row(ids), Key.root(1).per_row(ids)]
    assert len({tuple(stream[:, 0].tolist()) for stream in streams}) == len(streams)


def test_picks_are_nested_and_without_replacement():
    key, ids = Key.root(9), torch.arange(200)
    few, many = key.pick(ids, 20), key.pick(ids, 60)
    assert set(few.tolist()) < set(many.tolist())
    assert len(many.unique()) == 60


def test_seeding_a_block_leaves_the_global_generator_where_it_was():
    before = torch.random.get_rng_state()
    with seeded(Key.root(0)):
        one = torch.rand(3)
    with seeded(Key.root(0)):
        other = torch.rand(3)
    assert torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_generators_of_one_key_agree_and_of_two_keys_do_not():
    assert torch.equal(torch.rand(4, generator=Key.root(0).torch()), torch.rand(4, generator=Key.root(0).torch()))
    assert Key.root(0).numpy().random() != Key.root(1).numpy().random()


def test_the_draws_of_many_keys_at_once_are_those_of_each():
    parts, keys = [torch.tensor([3, 1]), torch.tensor([7]), torch.tensor([1, 2, 3])], [Key.root(seed) for seed in range(3)]
    together = per_row_of_each(keys, parts, epoch=2, draws=4)
    assert torch.equal(together, torch.cat([key.per_row(part, 2, 4) for key, part in zip(keys, parts, strict=True)]))
