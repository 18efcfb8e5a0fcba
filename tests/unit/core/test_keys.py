import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from poisonbench.core.files import File
from poisonbench.core.keys import canonical, key, tensor_digest


@dataclass(frozen=True)
class Plugin:
    VERSION: ClassVar[int] = 1
    size: int = 3
    where: str = field(default="here", metadata={"spec": False})


def test_a_plugin_is_its_class_version_and_fields():
    assert canonical(Plugin()) == {"class": f"{__name__}.Plugin", "version": 1, "size": 3}


def test_a_new_version_or_value_is_another_key_and_a_place_is_not(monkeypatch):
    before = key(Plugin())
    assert key(Plugin(size=4)) != before
    assert key(Plugin(where="there")) == before
    monkeypatch.setattr(Plugin, "VERSION", 2)
    assert key(Plugin()) != before


def test_the_code_of_a_plugin_from_elsewhere_is_in_its_key_and_not_in_its_specification():
    def plugin(answer):
        return dataclass(frozen=True)(type("Mine", (), {"act": lambda self: answer, "__module__": "elsewhere"}))()

    assert key(plugin(1)) == key(plugin(1)) != key(plugin(2))
    assert canonical(plugin(1)) == canonical(plugin(2)) == {"class": "elsewhere.Mine", "version": 1}


def test_keys_do_not_depend_on_the_order_of_a_mapping():
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})


def test_tensors_are_told_apart_by_shape_type_and_bytes():
    tensors = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.float64), torch.tensor([0.0, 0, 0, 1]), torch.zeros(0)]
    assert len({key(tensor) for tensor in tensors}) == len(tensors)
    assert key(torch.arange(6).reshape(2, 3).T) == key(torch.arange(6).reshape(2, 3).T.contiguous())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.0).expand(1),
        torch.tensor([7], dtype=torch.int64).expand(1, 1, 1),
        torch.tensor(3.0).expand(1, 1),
        torch.tensor(3.0).expand(4),
        torch.arange(3).expand(5, 3),
        torch.arange(12.0)[::3],
        torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1),
        torch.arange(12).reshape(3, 4)[1:, 2:3],
        torch.arange(6.0)[5:].expand(1),
        torch.tensor(2.5),
        torch.zeros(0, 3),
        torch.zeros(1).expand(0, 1),
        torch.tensor([True, False, True])[::2],
        torch.arange(4, dtype=torch.bfloat16)[1::2],
        torch.tensor(True).expand(1),
        torch.tensor(1.5, dtype=torch.bfloat16).expand(1),
    ],
)
def test_a_view_has_the_digest_of_a_fresh_tensor_of_the_same_values(tensor):
    """A tensor with one element may have any stride and still be contiguous."""
    fresh = torch.empty(tensor.shape, dtype=tensor.dtype)
    fresh.copy_(tensor)
    told = f"{tuple(fresh.shape)}{fresh.dtype}".encode()
    content = fresh.view(torch.int16) if fresh.dtype == torch.bfloat16 else fresh  # numpy has no bfloat16
    assert tensor_digest(tensor) == tensor_digest(fresh) == hashlib.sha256(told + content.numpy().tobytes()).hexdigest()


def test_a_view_that_conjugates_or_negates_has_the_digest_of_its_values():
    values = torch.tensor([1 + 2j, 3 - 1j])
    assert tensor_digest(values.conj()) == tensor_digest(values.conj().resolve_conj()) != tensor_digest(values)
    assert tensor_digest(values.conj().imag) == tensor_digest(-values.imag.clone())


def test_a_file_is_its_content_not_its_path(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    one, same, other = (key(File(str(tmp_path / name))) for name in "abc")
    assert one == same != other


def test_a_value_without_identity_is_refused():
    with pytest.raises(TypeError, match="cannot write"):
        key(lambda: None)


def test_a_later_field_is_written_only_where_it_differs_from_its_default():
    @dataclass(frozen=True)
    class Grown:
        size: int
        later: float = field(default=1.0, metadata={"spec": "changed"})

    assert "later" not in canonical(Grown(3))
    assert canonical(Grown(3, later=2.0))["later"] == 2.0
