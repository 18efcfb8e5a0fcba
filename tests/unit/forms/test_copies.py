import io

import numpy as np
import torch
from PIL import Image

from poisonbench.core.form import Form, equal_rows
from poisonbench.core.rng import Key
from poisonbench.forms.copies import alike_pictures, alike_texts, jaccard, shingled
from poisonbench.forms.pixels import Pixels


def smooth(count, seed=7, size=32):
    """Pictures of soft random shapes, in colour."""
    coarse = torch.rand(count, 3, 5, 5, generator=Key.root(seed).torch())
    return (torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def changed(pictures):
    """One copy of each picture, with one of five changes."""
    copies = pictures.clone()
    copies[0::5, :, :3, :3] = 255
    copies[1::5, :, -3:, -3:] = 0
    copies[2::5] = (copies[2::5].float() * 1.05).clamp(0, 255).to(torch.uint8)
    noise = torch.randint(-4, 5, copies[3::5].shape, generator=Key.root(8).torch())
    copies[3::5] = (copies[3::5].int() + noise).clamp(0, 255).to(torch.uint8)
    for row in range(4, len(copies), 5):
        stream = io.BytesIO()
        Image.fromarray(copies[row].permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=75)
        copies[row] = torch.from_numpy(np.asarray(Image.open(stream)).copy()).permute(2, 0, 1)
    return copies


def test_equal_rows_name_the_first_of_them():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [-0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    found = equal_rows(rows)
    assert found.twin.tolist() == [-1, -1, 0, -1, 3, 0]
    assert found.likeness.tolist() == [0, 0, 1, 0, 1, 1]
    assert Form().twins(rows, Key.root(0)).twin.tolist() == found.twin.tolist()


def test_every_planted_copy_of_a_picture_is_found_and_no_other_pair():
    pictures = smooth(200)
    copies = changed(pictures[:50])
    found = Pixels().twins(torch.cat([pictures, copies]), Key.root(100))
    assert found.twin[:200].tolist() == [-1] * 200
    assert found.twin[200:].tolist() == list(range(50))
    assert found.likeness[200:].min() > 0.9


def test_a_picture_repeated_exactly_is_a_copy_of_its_first_occurrence():
    pictures = smooth(12)
    found = alike_pictures(torch.cat([pictures, pictures[[5]], pictures[[5]]]), Key.root(1))
    assert found.twin[12:].tolist() == [5, 5]
    assert found.likeness[12:].tolist() == [1, 1]


def test_blank_pictures_and_single_rows_are_judged_too():
    blank = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    assert alike_pictures(blank, Key.root(0)).twin.tolist() == [-1, 0, 0, 0]
    assert alike_pictures(blank[:1], Key.root(0)).twin.tolist() == [-1]
    assert alike_pictures(blank[:0], Key.root(0)).twin.tolist() == []
    blank[1] = 200  # another blank picture has the same hash, and every pixel differs
    assert alike_pictures(blank[:2], Key.root(0)).twin.tolist() == [-1, -1]


def test_the_jaccard_similarity_of_two_texts_by_hand():
    one, other = shingled([1, 2, 3, 4, 5]), shingled([1, 2, 3, 4, 6])
    assert one == {(1, 2, 3), (2, 3, 4), (3, 4, 5)}
    assert jaccard(one, other) == 2 / 4
    assert shingled([4, 5]) == {(4, 5)}
    assert shingled([]) == {()}


def test_texts_with_nearly_the_same_words_are_copies_and_the_limit_is_exact():
    generator = Key.root(3).torch()
    texts = torch.randint(2, 500, (60, 24), generator=generator)
    near, far = texts[:20].clone(), texts[20:40].clone()
    near[:, -1] = 777  # one of 22 shingles of either text: 21 of 23 are shared
    far[:, 12] = 777  # three shingles of either: 19 of 25 = 0.76
    assert jaccard(shingled(texts[20].tolist()), shingled(far[0].tolist())) == 19 / 25
    found = alike_texts(torch.cat([texts, near, far]), padding=0)
    assert found.twin[:60].tolist() == [-1] * 60
    assert found.twin[60:80].tolist() == list(range(20))
    torch.testing.assert_close(found.likeness[60:80], torch.full((20,), 21 / 23))
    assert found.twin[80:].tolist() == [-1] * 20


def test_padding_is_no_word():
    texts = torch.tensor([[5, 6, 7, 8, 0, 0, 0], [5, 6, 7, 8, 9, 0, 0], [5, 6, 7, 8, 9, 10, 11]])
    found = alike_texts(texts, padding=0)
    assert found.twin.tolist() == [-1, -1, -1]  # 2 of 3 and 3 of 5 shingles
    assert alike_texts(torch.tensor([[5, 6, 0], [5, 6, 0]]), padding=0).twin.tolist() == [-1, 0]
