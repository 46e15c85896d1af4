"""Which files are the same picture: equal bytes, or nearly equal looks.

A perceptual hash (imagehash's pHash, 256 bits) finds candidates. Looking at pairs of UTKFace, all
that differ in up to 40 bits are one picture (cropped, blurred, recoloured or watermarked anew),
strangers begin at 44 and groups chain from 52 on. Drawn faces are more alike: strangers begin at
16. So above SURE_BITS the thumbnails must agree too, whatever their brightness and contrast. That
misses about one near-duplicate of UTKFace in fourteen, those cropped or recoloured most, and joins
no strangers that were seen.
"""

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

HASH_SIDE = 16  # bits per side
HASHED_SIDE = 4 * HASH_SIDE  # pixels per side that both hash and thumbnail are made from
SURE_BITS, MAX_BITS = 14, 46
THUMB_SIDE, MAX_DIFFERENCE = 16, 0.14  # pixels; standard deviations of the thumbnail, on average
MIN_CONTRAST = 16  # of 255; a blank picture looks like any other blank one and gets no hash
BLOCK = 2**22  # pairs of hashes compared at a time
THUMBS = 2**12  # pairs of thumbnails compared at a time


def perceptual_hash(image: Image.Image) -> tuple[str, np.ndarray]:
    """How an RGB image looks: its perceptual hash (64 hex digits) and its thumbnail.

    The thumbnail is uint8 (16, 16, 3). The hash is "" for a picture that is blank.
    """
    small = image.resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.BOX)
    thumb = np.asarray(small.reduce(HASHED_SIDE // THUMB_SIDE))
    grey = small.convert("L")
    darkest, lightest = grey.getextrema()
    if lightest - darkest < MIN_CONTRAST:
        return "", thumb
    return np.packbits(imagehash.phash(grey, HASH_SIDE).hash).tobytes().hex(), thumb


def same_pictures(contents: list[str], hashes: list[str], thumbs: np.ndarray) -> np.ndarray:
    """Give all files of one picture one label: int (N,).

    contents: N content hashes, equal for equal bytes. hashes, thumbs: what ``perceptual_hash``
    gave for each, thumbs as uint8 (N, 16, 16, 3). Near-duplicates of near-duplicates are
    one picture as well.
    """
    _, first, content = np.unique(contents, return_index=True, return_inverse=True)
    hashed = np.array([k for k, i in enumerate(first) if hashes[i]], dtype=int)
    if not len(hashed):
        return content
    near = _near([hashes[i] for i in first[hashed]], thumbs[first[hashed]])
    label = len(first) + np.arange(len(first))  # above those of the hashed ones: alone
    label[hashed] = near
    return label[content]


def _near(hashes: list[str], thumbs: np.ndarray) -> np.ndarray:
    """One label for all near-duplicates among M different files: int (M,).

    Pairs that have one label already are passed over, and no more than BLOCK are held: thousands
    of files that are all alike have millions of pairs.
    """
    packed = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), -1)
    signs = np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1  # (M, 256) of -1 and 1
    bits, label, start = signs.shape[1], np.arange(len(signs)), 0
    while start < len(signs):
        rows = max(1, BLOCK // (len(signs) - start))
        product = signs[start : start + rows] @ signs[start:].T  # equal bits minus different bits
        left, right = np.nonzero(product >= bits - 2 * MAX_BITS)
        apart = label[left + start] != label[right + start]
        left, right = left[apart], right[apart]
        sure = product[left, right] >= bits - 2 * SURE_BITS
        pairs = np.stack([left, right]) + start  # (2, K)
        label = _joined(label, pairs[:, sure])
        for place in range(0, pairs.shape[1], THUMBS):
            some = pairs[:, place : place + THUMBS]
            some = some[:, label[some[0]] != label[some[1]]]
            label = _joined(label, some[:, _alike(thumbs[some[0]], thumbs[some[1]])])
        start += rows
    return label


def _joined(label: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Labels (M,) after the files of these pairs, (2, K), were found to be one picture."""
    edges = (np.ones(pairs.shape[1], bool), label[pairs])
    graph = coo_array(edges, shape=(len(label), len(label)))
    return connected_components(graph, directed=False)[1][label]


def _alike(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether thumbnails (K, S, S, 3) agree but for brightness and contrast: bool (K,)."""
    both = np.stack([left, right]).astype(np.float32)
    both -= both.mean((2, 3, 4), keepdims=True)
    both /= both.std((2, 3, 4), keepdims=True)
    return np.abs(both[0] - both[1]).mean((1, 2, 3)) <= MAX_DIFFERENCE
