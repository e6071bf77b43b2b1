import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from jaxseg.data.masks.rle import areas_and_boxes, decode_runs, encode_runs
from jaxseg.data.ragged import cumsum_lists, flatten_numbers, reduce_lists


def bitmaps():
    """Return masks of one size, from empty to full, and two large ones."""
    rng = np.random.default_rng(0)
    fractions = (0.0, 0.001, 0.01, 0.5, 0.99, 1.0)
    large = np.zeros((2000, 3000), bool)
    large[1999, 2999] = large[10:1500, 20:2000] = True
    return [rng.random((37, 211)) < fraction for fraction in fractions] + [large, ~large]


def texts_of(masks):
    return [mask_api.encode(np.asfortranarray(m, np.uint8))["counts"] for m in masks]


def flat(texts):
    joined = np.frombuffer(b"".join(texts), np.uint8)
    return joined, np.asarray([len(text) for text in texts], np.int64)


def test_runs_match_the_masks_and_encode_to_the_same_text():
    masks = bitmaps()
    texts = texts_of(masks)
    runs, counts, formed = decode_runs(*flat(texts))
    assert formed.all()
    for mask, part in zip(masks, np.split(runs, np.cumsum(counts)[:-1]), strict=True):
        pixels = np.repeat(np.arange(len(part)) % 2, part)
        np.testing.assert_array_equal(pixels, mask.flatten(order="F"))
    text, lengths = encode_runs(runs, counts)
    assert text.tobytes() == b"".join(texts)
    assert lengths.tolist() == [len(t) for t in texts]


def test_areas_and_boxes_match_pycocotools():
    masks = bitmaps()
    texts = texts_of(masks)
    runs, counts, _ = decode_runs(*flat(texts))
    areas, boxes = areas_and_boxes(runs, counts, np.asarray([m.shape[0] for m in masks]))
    for mask, text, area, box in zip(masks, texts, areas, boxes, strict=True):
        rle = {"size": list(mask.shape), "counts": text}
        assert area == mask_api.area(rle)
        x, y, width, height = mask_api.toBbox(rle)
        np.testing.assert_array_equal(box, [x, y, x + width, y + height])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, (1 << 27) - 1), max_size=8), min_size=1, max_size=5))
def test_encoding_and_decoding_gives_back_any_runs(lists):
    runs = np.asarray([run for part in lists for run in part], np.int64)
    counts = np.asarray([len(part) for part in lists], np.int64)
    decoded, lengths, formed = decode_runs(*encode_runs(runs, counts))
    np.testing.assert_array_equal(decoded, runs)
    np.testing.assert_array_equal(lengths, counts)
    assert formed.all()


def test_malformed_texts_do_not_affect_their_neighbours():
    valid = texts_of(bitmaps()[3:4])[0]
    texts = [b"P", valid, b"PPPPPP0", b"", b"\x7f0", valid, valid + b"a"]
    runs, counts, formed = decode_runs(*flat(texts))
    assert formed.tolist() == [False, True, False, True, False, True, False]
    assert (counts > 0).tolist() == [False, True, False, False, False, True, False]
    np.testing.assert_array_equal(runs[: counts[1]], runs[counts[1] :])


def test_runs_too_long_for_text_are_refused():
    with pytest.raises(ValueError, match="a run of 536870912 pixels is too long"):
        encode_runs(np.asarray([1 << 29]), np.asarray([1]))


def test_the_longest_runs_are_those_that_pycocotools_reads():
    longest = (1 << 29) - 1
    runs = np.asarray([longest, 7, 0, longest, 0, 1])
    text, _ = encode_runs(runs, np.asarray([6]))
    rle = {"size": [1 << 16, 1 << 16], "counts": text.tobytes()}
    assert mask_api.area(rle) == 7 + longest + 1
    np.testing.assert_array_equal(decode_runs(text, np.asarray([len(text)]))[0], runs)


@given(st.lists(st.lists(st.integers(-9, 9), max_size=4), min_size=1, max_size=6))
def test_lists_are_reduced_and_summed_one_by_one(lists):
    numbers, lengths, valid = flatten_numbers(lists)
    assert valid.all()
    assert reduce_lists(np.minimum, numbers, lengths).tolist() == [min(x, default=0) for x in lists]
    sums = [sum(part[: i + 1]) for part in lists for i in range(len(part))]
    assert cumsum_lists(numbers.astype(np.int64), lengths).tolist() == sums


def test_lists_with_values_other_than_numbers_count_as_empty():
    lists = [[1, 2.5], [True], ["1"], None, "12", [10**400, 1], [float("nan")], [[1]], [3]]
    numbers, lengths, valid = flatten_numbers(lists)
    assert valid.tolist() == [True] + [False] * 5 + [True, False, True]
    assert lengths.tolist() == [2, 0, 0, 0, 0, 0, 1, 0, 1]
    np.testing.assert_array_equal(numbers, [1, 2.5, np.nan, 3])
