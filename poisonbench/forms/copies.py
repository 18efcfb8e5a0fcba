"""Near copies of pictures and of texts: candidates by hashes, then an exact comparison.

Shape letters: N rows, C channels, H height, W width, B bits of a hash, L places of a text, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from poisonbench.core.form import Twins, equal_rows
from poisonbench.core.rng import Key
from poisonbench.forms.hashes import perceptual

BITS = 6  # of the 64 bits of a hash, by which copies differ at most
SAME = 24  # grey levels by which equal pixels differ at most: 10 % more light moves pixels less
DRAWN = 50_000  # pairs of rows that show how far different pictures are apart
TAIL = 1e-4  # the share of these pairs that is closer than the distance from which the limit is taken
CLOSER = 0.5  # copies differ in at most this share of the pixels in which those pairs differ
CELLS = 1 << 24  # numbers that are held at a time

WORDS = 3  # words of a shingle
PERMUTATIONS = 128
INDEXED = 0.5  # similarity that the index looks for; at the similarity wanted it would miss many pairs
JACCARD = 0.8  # from which two texts are copies


def alike_pictures(pixels: Tensor, rng: Key) -> Twins:
    """Return for each picture the earlier one that it is a copy of.

    Two pictures are a copy if their difference hashes (`imagehash.dhash`, 64 bits) differ in at most 6 bits and few pixels differ by more than 24 grey
    levels: at most half of the share in which the closest 1 of 10,000 pairs of different pictures of this data set differ.

    The hash was chosen on training rows: a 3x3 patch in any corner moves it by at most 4 bits at 28x28 and at 32x32 (95 % of the pictures), where
    `phash` of the same size moves by 18, and `average_hash` gives many different digits the same hash. Share of planted copies that are found
    (`python -m benchmarks hashes`, 100 of each kind among 1,437 or 2,000 distinct rows):

    | change | digits, 8x8 | MNIST, 28x28 | CIFAR-10, 32x32 |
    |---|---|---|---|
    | 3x3 patch in a corner | 1 % | 100 % | 100 % |
    | JPEG of quality 50 | 18 % | 29 % | 95 % |
    | 10 % more light | 100 % | 100 % | 99 % |
    | shift by one pixel | 0 % | 0 % | 5 % |
    | distinct rows that are named | 0.07 % | 0 | 0 |

    At 8x8 a patch changes a seventh of the picture, as much as one digit differs from another. A comparison of pixels without a hash finds no more there:
    a limit that names 0.07 % of the distinct rows finds 2 % of the patches and 39 % of the JPEG copies. Shifts and JPEG on MNIST are missed because too
    many pixels differ. `phash` of 16x16 bits alone finds them on CIFAR-10, and JPEG on MNIST, but names 0.9 to 1 % of the distinct rows.

    Args:
        pixels: (N, C, H, W) uint8.
        rng: draws pairs of different pictures.
    """
    found = equal_rows(pixels)
    first = (found.twin < 0).nonzero()[:, 0]  # equal pictures are settled
    if len(first) < 2:
        return found
    twin, likeness = found.twin.clone(), found.likeness.clone()
    unique = pixels[first]
    hashes = _hashed(unique)
    limit = _limit(unique, hashes, rng)
    for later, earlier in _close(hashes):
        for some_later, some_earlier in zip(*(part.split(max(1, CELLS // pixels[0].numel())) for part in (later, earlier)), strict=True):
            apart = _changed(unique[some_later], unique[some_earlier])
            _keep_best(twin, likeness, first[some_later], first[some_earlier], 1 - apart, apart <= limit)
    return Twins(twin=twin, likeness=likeness)


def _keep_best(twin: Tensor, likeness: Tensor, later: Tensor, earlier: Tensor, alike: Tensor, holds: Tensor) -> None:  # noqa: PLR0913  # one pair of each
    for row, other, value in zip(later[holds].tolist(), earlier[holds].tolist(), alike[holds].tolist(), strict=True):
        if value > likeness[row]:
            twin[row], likeness[row] = other, value


def _hashed(pixels: Tensor) -> Tensor:
    """Return (N, B) float32 of -1 and 1, the difference hash of each picture."""
    return perceptual(pixels, "dhash").float() * 2 - 1


def _close(hashes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the (P,) positions of pairs whose hashes are close, the later row first; all pairs are compared, in blocks."""
    count, bits = hashes.shape
    for rows in torch.arange(count).split(max(1, CELLS // count)):
        upto = int(rows[-1]) + 1
        products = hashes[rows] @ hashes[:upto].T
        later, earlier = (products >= bits - 2 * BITS).nonzero(as_tuple=True)
        later = rows[later]
        yield later[earlier < later], earlier[earlier < later]


def _changed(one: Tensor, other: Tensor) -> Tensor:
    """Return (P,) the share of the values of each pair that differ by more than `SAME` grey levels."""
    return ((one.short() - other.short()).abs() > SAME).flatten(1).float().mean(1)


def _limit(pixels: Tensor, hashes: Tensor, rng: Key) -> float:
    """Return the largest share of changed pixels of a copy, from pairs of pictures whose hashes are not close."""
    draws = torch.randint(len(pixels), (2, min(DRAWN, len(pixels) ** 2)), generator=rng.child("pairs").torch())
    one, other = draws[:, draws[0] != draws[1]]
    far = (hashes[one] * hashes[other]).sum(1) < hashes.shape[1] - 2 * BITS
    one, other = one[far], other[far]
    if not len(one):
        return 0.0
    size = max(1, CELLS // pixels[0].numel())
    apart = torch.cat([_changed(pixels[some], pixels[others]) for some, others in zip(one.split(size), other.split(size), strict=True)])
    return CLOSER * float(apart.kthvalue(max(1, int(TAIL * len(apart)))).values)


def alike_texts(tokens: Tensor, padding: int) -> Twins:
    """Return for each text the earlier one that it is a copy of: a Jaccard similarity of 0.8 or more between their sets of three words in a row.

    Candidates come from MinHash with 128 permutations (`datasketch`), indexed at a similarity of 0.5; then the similarity is computed exactly. A text of
    fewer than three words is its own shingle. Unknown words are equal to each other.

    Args:
        tokens: (N, L) int64 ids.
        padding: the id of padding.
    """
    from datasketch import MinHash, MinHashLSH

    found = equal_rows(tokens)
    first = (found.twin < 0).nonzero()[:, 0].tolist()
    shingles = {row: shingled([word for word in tokens[row].tolist() if word != padding]) for row in first}
    twin, likeness = found.twin.clone(), found.likeness.clone()
    index = MinHashLSH(threshold=INDEXED, num_perm=PERMUTATIONS)
    coded = ([repr(shingle).encode() for shingle in shingles[row]] for row in first)
    for row, sketch in zip(first, MinHash.generator(coded, num_perm=PERMUTATIONS, seed=1), strict=True):
        near = [(jaccard(shingles[row], shingles[other]), -other) for other in index.query(sketch)]
        best, other = max(near, default=(0.0, 0))
        if best >= JACCARD:
            twin[row], likeness[row] = -other, best
        index.insert(row, sketch)
    return Twins(twin=twin, likeness=likeness)


def shingled(words: Sequence[int]) -> frozenset[tuple[int, ...]]:
    """Return the set of three words in a row; a shorter text is one shingle."""
    return frozenset(tuple(words[place : place + WORDS]) for place in range(max(1, len(words) - WORDS + 1)))


def jaccard(one: frozenset[tuple[int, ...]], other: frozenset[tuple[int, ...]]) -> float:
    """Return the share of the shingles of either text that both have."""
    return len(one & other) / max(1, len(one | other))
