"""Duplicates and near-duplicates among files.

Candidates come from a perceptual hash (imagehash's pHash, 256 bits). By inspection of UTKFace,
pairs up to 40 bits apart are the same picture (cropped, blurred, recoloured or watermarked),
different people appear from 44 bits, and groups chain from 52; of drawn faces, which are more
alike, different ones appear from 16. So above SURE_BITS the thumbnails, normalised for brightness
and contrast, must agree too. This misses about one in fourteen near-duplicates of UTKFace, the most
heavily cropped or recoloured, and no false match was seen.
"""

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

HASH_SIDE = 16  # bits per side
HASHED_SIDE = 4 * HASH_SIDE  # pixels per side of the image that is hashed
SURE_BITS, MAX_BITS = 14, 46
THUMB_SIDE, MAX_DIFFERENCE = 16, 0.14  # pixels; mean absolute difference, in standard deviations
MIN_CONTRAST = 16  # of 255; below it a picture is blank and gets no hash
BLOCK = 2**22  # pairs of hashes compared at a time
THUMBS = 2**12  # pairs of thumbnails compared at a time


def perceptual_hash(image: Image.Image) -> tuple[str, np.ndarray]:
    """The hash (64 hex digits, "" if blank) and thumbnail, uint8 (16, 16, 3), of an RGB image."""
    small = image.resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.BOX)
    thumb = np.asarray(small.reduce(HASHED_SIDE // THUMB_SIDE))
    grey = small.convert("L")
    darkest, lightest = grey.getextrema()
    if lightest - darkest < MIN_CONTRAST:
        return "", thumb
    return np.packbits(imagehash.phash(grey, HASH_SIDE).hash).tobytes().hex(), thumb


def same_pictures(contents: list[str], hashes: list[str], thumbs: np.ndarray) -> np.ndarray:
    """Label files by picture: int (N,). Near-duplicates count transitively.

    contents: N content hashes; hashes, thumbs: from ``perceptual_hash``, thumbs stacked to uint8
    (N, 16, 16, 3).
    """
    _, first, content = np.unique(contents, return_index=True, return_inverse=True)
    hashed = np.array([k for k, i in enumerate(first) if hashes[i]], dtype=int)
    if not len(hashed):
        return content
    label = len(first) + np.arange(len(first))  # above the labels of hashed ones: unique
    label[hashed] = _near([hashes[i] for i in first[hashed]], thumbs[first[hashed]])
    return label[content]


def _near(hashes: list[str], thumbs: np.ndarray) -> np.ndarray:
    """Labels, int (M,), equal for near-duplicates among M files of different content."""
    # In blocks, without pairs that share a label: a thousand similar files make a million pairs.
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
    """Labels (M,) with those of each pair, (2, K), merged."""
    edges = (np.ones(pairs.shape[1], bool), label[pairs])
    graph = coo_array(edges, shape=(len(label), len(label)))
    return connected_components(graph, directed=False)[1][label]


def _alike(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether thumbnails (K, S, S, 3) agree up to brightness and contrast: bool (K,)."""
    both = np.stack([left, right]).astype(np.float32)
    both -= both.mean((2, 3, 4), keepdims=True)
    both /= both.std((2, 3, 4), keepdims=True)
    return np.abs(both[0] - both[1]).mean((1, 2, 3)) <= MAX_DIFFERENCE
