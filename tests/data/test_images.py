import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from jaxseg.data import expand_path, is_single, read_image
from jaxseg.data.images import ImageSizeError, image_size, read_labels

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
COLORS = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])


def save(folder, image, name="a.png", **options):
    path = folder / name
    image.save(path, **options)
    return path


def same(grey):
    return np.dstack([grey] * 3)


def png_of_16_bits():
    """Return a 16-bit RGB PNG of 2x1 pixels, which Pillow cannot write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    row = b"\0" + struct.pack(">6H", 0x12FF, 0x3400, 0x5680, 0xFFFF, 0, 0x0100)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


MODES = {
    "grey": (Image.fromarray(GREY), "png", same(GREY)),
    "colour": (Image.fromarray(COLORS), "png", COLORS),
    "alpha": (Image.fromarray(np.dstack([COLORS, GREY])), "png", COLORS),
    "grey and alpha": (Image.fromarray(np.dstack([GREY, GREY[::-1]]), "LA"), "png", same(GREY)),
    "palette": (Image.fromarray(GREY).convert("P"), "png", same(GREY)),
    "16-bit grey": (Image.fromarray(GREY.astype(np.uint16) * 256 + 255), "png", same(GREY)),
    "16-bit TIFF": (Image.fromarray(GREY.astype(">u2") * 256), "tiff", same(GREY)),
    "1-bit": (Image.fromarray(GREY > 100), "png", same((GREY > 100) * np.uint8(255))),
    "CMYK": (Image.fromarray(255 - np.dstack([COLORS, 255 + 0 * GREY]), "CMYK"), "tiff", COLORS),
    "one pixel": (Image.fromarray(COLORS[:1, :1]), "png", COLORS[:1, :1]),
    "wide": (Image.new("RGB", (20_000, 3), (1, 2, 3)), "png", np.tile([1, 2, 3], (3, 20_000, 1))),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter")
@pytest.mark.parametrize("mode", MODES)
def test_images_of_all_modes_become_rgb(tmp_path, mode):
    image, form, expected = MODES[mode]
    path = save(tmp_path, image, f"a.{form}")
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_16_bit_colours_are_reduced_to_their_upper_bits(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of_16_bits())
    expected = [[[0x12, 0x34, 0x56], [0xFF, 0, 0x01]]]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("transparency", [3, bytes([0, 128, 255] * 5)])
def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path, transparency):
    path = save(tmp_path, Image.fromarray(GREY).convert("P"), transparency=transparency)
    np.testing.assert_array_equal(read_image(path), same(GREY))


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
def test_the_first_of_several_frames_is_read(tmp_path, form):
    frames = [Image.fromarray(same(GREY * np.uint8(f))) for f in (1, 0)]
    options = {"lossless": True} if form == "webp" else {}
    path = save(
        tmp_path, frames[0], f"a.{form}", save_all=True, append_images=frames[1:], **options
    )
    np.testing.assert_array_equal(read_image(path), same(GREY))


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path):
    red = Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK")
    pixels = read_image(save(tmp_path, red, "a.jpg", quality=95))
    np.testing.assert_allclose(pixels[8, 8], [200, 30, 30], atol=12)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_exif_rotates_the_image_unless_its_size_is_that_of_the_original_pixels(
    tmp_path, orientation, form
):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(form, {})
    path = save(tmp_path, Image.fromarray(same(GREY)), f"a.{form}", exif=exif, **options)
    original = same(GREY).astype(int)
    # The orientation says where the original pixels have row 0 and column 0 (EXIF 2.3).
    rotated = {
        2: original[:, ::-1],
        3: original[::-1, ::-1],
        4: original[::-1],
        5: original.transpose(1, 0, 2),
        6: original[::-1].transpose(1, 0, 2),
        7: original[::-1, ::-1].transpose(1, 0, 2),
        8: original[:, ::-1].transpose(1, 0, 2),
    }.get(orientation, original)
    tolerance = {"atol": 6 if form == "jpg" else 0}
    for size in (None, rotated.shape[:2]):
        np.testing.assert_allclose(read_image(path, size).astype(int), rotated, **tolerance)
    if rotated.shape != original.shape:
        np.testing.assert_allclose(read_image(path, (4, 6)).astype(int), original, **tolerance)
    with pytest.raises(
        ImageSizeError, match=r"a\.\w+ is 6x4 pixels( \(4x6 after EXIF.*\))?, not 7x5"
    ):
        read_image(path, (5, 7))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_rotated_once(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    tiff, png = (
        save(tmp_path, Image.fromarray(COLORS), f"a.{f}", exif=exif) for f in ("tiff", "png")
    )
    np.testing.assert_array_equal(read_image(tiff), read_image(png))


def test_malformed_exif_is_ignored(tmp_path):
    plain = save(tmp_path, Image.fromarray(same(GREY)), "plain.png")
    for number, exif in enumerate(
        (b"Exif\0\0MM", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x", b"MM" * 9)
    ):
        path = save(tmp_path, Image.fromarray(same(GREY)), f"{number}.png", exif=exif)
        np.testing.assert_array_equal(read_image(path), read_image(plain))


def valid_png():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)).save(
        file, "PNG"
    )
    return file.getvalue()


def png_of_size(width, height):
    """Return a PNG with a header of this size, and without its pixels."""
    return (
        png_of_16_bits()[:16]
        + width.to_bytes(4, "big")
        + height.to_bytes(4, "big")
        + png_of_16_bits()[24:]
    )


UNDECODABLE = {
    "empty": (b"", "it is not a valid BMP"),
    "text": (b"not an image", "it is not a valid BMP"),
    "truncated": (valid_png()[:2000], "truncated"),
    "only a header": (valid_png()[:40], "it is not a valid BMP"),
}


@pytest.mark.parametrize("name", UNDECODABLE)
def test_an_undecodable_file_is_an_error(tmp_path, name):
    data, message = UNDECODABLE[name]
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.png cannot be decoded as an image: .*({message})"):
        read_image(tmp_path / "a.png")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^no image file .*absent\.png$"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(tmp_path)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_32_bits_are_refused(tmp_path, mode):
    path = save(tmp_path, Image.new(mode, (4, 4)), "a.tiff")
    with pytest.raises(ValueError, match=f"a.tiff .* 32 bits .Pillow's mode {mode}.*convert it"):
        read_image(path)


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 9_000)])
def test_a_decompression_bomb_is_refused_without_warnings_or_changes_to_pillow(tmp_path, size):
    data = bytearray(png_of_size(*size))
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(
            ValueError, match=rf"a.png .* {size[0]}x{size[1]} are more than 89478485"
        ):
            read_image(tmp_path / "a.png")
    assert not caught
    assert limit == Image.MAX_IMAGE_PIXELS


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_program_is_started_for_an_eps_with_another_name(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a))
    (tmp_path / "photo.jpg").write_bytes(EPS)
    with pytest.raises(
        ValueError, match=r"photo.jpg cannot be .*: it is not a valid BMP, .*, WEBP"
    ):
        read_image(tmp_path / "photo.jpg")
    assert not started


@pytest.mark.parametrize("form", ["bmp", "gif", "jpeg", "jp2", "mpo", "png", "ppm", "tiff", "webp"])
def test_every_named_format_is_read(tmp_path, form):
    path = save(tmp_path, Image.new("RGB", (6, 4), (250, 250, 250)), f"a.{form}")
    np.testing.assert_allclose(read_image(path), 250, atol=3)


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png is not a regular file"):
        read_image(tmp_path / "a.png")


def test_a_link_to_an_image_is_read(tmp_path):
    path = save(tmp_path, Image.fromarray(GREY))
    (tmp_path / "link.png").symlink_to(path)
    np.testing.assert_array_equal(read_image(tmp_path / "link.png"), same(GREY))


def tiff(channels, bits):
    """Return a TIFF of 2x1 pixels, with values that count up from 0, which Pillow cannot write."""
    data = bytes(range(2 * channels * bits // 8))
    values = struct.pack(f"<{channels}H", *[bits] * channels)
    extra = max(channels - 3, 0)
    kinds = struct.pack(f"<{extra}H", *[0] * extra)
    entries = {256: 2, 257: 1, 259: 1, 262: 2 if channels > 2 else 1, 277: channels, 278: 1}
    entries[279] = len(data)
    start = 8 + 2 + 12 * (len(entries) + 3) + 4
    fields = [(tag, 3, 1, struct.pack("<I", value)) for tag, value in entries.items()]
    fields.append((273, 4, 1, struct.pack("<I", start + len(values + kinds))))
    fields.append((258, 3, channels, inline(values, start)))
    fields.append((338, 3, extra, inline(kinds, start + len(values))))
    head = b"II*\0" + struct.pack("<IH", 8, len(fields))
    return (
        head
        + b"".join(struct.pack("<HHI", *field[:3]) + field[3] for field in sorted(fields))
        + bytes(4)
        + values
        + kinds
        + data
    )


def inline(values, offset):
    """Return the value of a TIFF's field: itself if it fits, else where it is."""
    return values.ljust(4, b"\0") if len(values) <= 4 else struct.pack("<I", offset)


@pytest.mark.parametrize(
    ("channels", "bits", "expected"),
    [
        (3, 8, [[0, 1, 2], [3, 4, 5]]),
        (3, 16, [[1, 3, 5], [7, 9, 11]]),  # the upper bytes
        (4, 8, [[0, 1, 2], [4, 5, 6]]),  # the fourth is dropped
    ],
)
def test_tiffs_of_three_and_four_channels_are_read(tmp_path, channels, bits, expected):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(channels, bits))
    assert read_image(path).tolist() == [expected]


@pytest.mark.parametrize(
    ("channels", "bits", "message"),
    [
        (5, 8, "it has 5 channels: save the three to use as RGB"),
        (7, 16, "1 .grey., 3 .RGB. or 4 channels .RGBA, CMYK. with 8 or 16 bits; convert it"),
    ],
)
def test_images_of_more_channels_are_refused(tmp_path, channels, bits, message):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(channels, bits))
    for read in (read_image, image_size, read_labels):
        with pytest.raises(ValueError, match=message):
            read(path)


LABELS = np.array([[0, 1, 2], [0, 200, 3]])


@pytest.mark.parametrize("mode", ["8 bits", "16 bits", "palette", "colours", "colours and alpha"])
def test_label_images_keep_their_values(tmp_path, mode):
    image = Image.fromarray(LABELS.astype(np.uint16 if mode == "16 bits" else np.uint8))
    expected = LABELS
    if mode == "palette":
        image.putpalette([0] * 768)
    if mode.startswith("colours"):
        channels = [LABELS, 0 * LABELS, LABELS + 1, 0 * LABELS][: 3 + ("alpha" in mode)]
        image = Image.fromarray(np.dstack(channels).astype(np.uint8))
        expected = LABELS * 65536 + LABELS + 1
    assert read_labels(save(tmp_path, image)).tolist() == expected.tolist()


def test_label_images_that_change_values_are_refused(tmp_path):
    image = Image.fromarray(LABELS.astype(np.uint8))
    with pytest.raises(ValueError, match=r"a.jpg cannot .*JPEG changes the values of a mask"):
        read_labels(save(tmp_path, image, "a.jpg"))
    with pytest.raises(ValueError, match="Pillow's mode F is no mask"):
        read_labels(save(tmp_path, Image.fromarray(LABELS.astype(np.float32)), "a.tif"))


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    path = tmp_path / "a[1].png"
    assert not is_single(path)
    with pytest.raises(FileNotFoundError, match="no image file matches the pattern"):
        expand_path(path)
    path.touch()
    (tmp_path / "a1.png").touch()  # what the pattern matches
    assert is_single(path)
    assert expand_path(path) == [path]
