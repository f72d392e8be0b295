"""Pictures as strangers write them: decoded, or refused by their real fault."""

import io
import warnings

import numpy
import pytest
from PIL import Image, ImageOps

from lirf_core.images.decoding import Decoders, UnreadableImage
from lirf_core.images.preprocessing import Preprocessing
from tests.lirf_core.images import pictures
from tests.lirf_core.images.pictures import SIDE, chunk, colours, encoded, exif, exif_segment, jpeg, png

DECODERS = Decoders(at_most=1)
COLOUR = Preprocessing(SIDE, SIDE, (0.5,) * 3, (0.5,) * 3)
GREY = Preprocessing(SIDE, SIDE, (0.5,), (0.5,))


def decoded(content: bytes, preprocessing: Preprocessing = COLOUR) -> numpy.ndarray:  # type: ignore[type-arg]
    """(H, W, C)"""
    return DECODERS.tensor(content, preprocessing)[0].permute(1, 2, 0).numpy().astype(int)


def assert_shows(pixels: numpy.ndarray, image: Image.Image, tolerance: float) -> None:  # type: ignore[type-arg]
    expected = numpy.asarray(image, int).reshape(pixels.shape)
    assert numpy.abs(pixels - expected).mean() <= tolerance


@pytest.mark.attack
@pytest.mark.parametrize("name", pictures.WELL_FORMED)
def test_a_picture_is_decoded_whatever_wrote_it(name: str) -> None:
    assert_shows(decoded(pictures.WELL_FORMED[name]), colours(), 0 if "png" in name else 4)


@pytest.mark.parametrize("name", pictures.GREY)
def test_a_grey_picture_is_decoded_for_networks_of_grey_and_of_colours(name: str) -> None:
    grey = colours().convert("L")
    assert_shows(decoded(pictures.GREY[name], GREY), grey, 0 if "png" in name else 2)
    assert_shows(decoded(pictures.GREY[name]), grey.convert("RGB"), 0 if "png" in name else 2)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_pixels_of_few_bits_use_the_whole_range(bits: int) -> None:
    image = Image.linear_gradient("L").resize((SIDE, SIDE)).convert("1") if bits == 1 else colours().quantize(1 << bits)
    assert_shows(decoded(encoded(image, "PNG", bits=bits)), image.convert("RGB"), 0)


def test_pixels_of_16_bits_are_scaled_and_not_clipped() -> None:
    """Both ways in which programs widen 8 bits to 16 give the same 8 bits again."""
    values = numpy.arange(SIDE * SIDE, dtype=numpy.uint16).reshape(SIDE, SIDE) % 256
    for factor in (256, 257):
        assert (decoded(png(pixels=values * factor, colour=0), GREY)[:, :, 0] == values).all()
    steps = numpy.linspace(0, 65535, SIDE * SIDE).astype(numpy.uint16).reshape(SIDE, SIDE)
    assert numpy.abs(decoded(png(pixels=steps, colour=0), GREY)[:, :, 0] - steps / 257).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(9))
def test_a_picture_is_turned_as_its_exif_says(orientation: int, order: str) -> None:
    data = exif(orientation, order)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(png(chunk(b"eXIf", exif(orientation))))))
    assert_shows(decoded(png(chunk(b"eXIf", data))), upright, 0)
    assert_shows(decoded(png(after=chunk(b"eXIf", data))), upright, 0)
    assert_shows(decoded(jpeg(exif_segment(orientation=orientation, order=order))), upright, 4)
    entry_with_a_fault = exif_segment(orientation=orientation, before=(0x010F, 2, 1000, 60_000))
    assert_shows(decoded(jpeg(entry_with_a_fault, has_jfif=False)), upright, 4)


def test_a_turned_picture_is_resized_to_the_networks_height_and_width() -> None:
    wide = colours().resize((64, 16), Image.Resampling.NEAREST)
    content = encoded(wide.rotate(90, expand=True), "PNG")  # as it was taken; 6 turns it back
    turned = content[:33] + chunk(b"eXIf", exif(6)) + content[33:]
    assert_shows(decoded(turned, Preprocessing(16, 64, (0.5,) * 3, (0.5,) * 3)), wide, 0)
    assert_shows(decoded(turned, Preprocessing(8, 32, (0.5,) * 3, (0.5,) * 3)), wide.resize((32, 8)), 4)


def test_a_model_may_ignore_the_orientation() -> None:
    stored = Preprocessing(SIDE, SIDE, (0.5,) * 3, (0.5,) * 3, "ignore")
    assert_shows(decoded(jpeg(exif_segment(orientation=6)), stored), colours(), 4)
    assert_shows(decoded(png(chunk(b"eXIf", exif(3))), stored), colours(), 0)


def test_colours_under_transparent_pixels_are_not_blended() -> None:
    image = colours()
    image.putalpha(0)
    assert_shows(decoded(encoded(image, "PNG")), colours(), 0)


def test_a_jpeg_of_99_megapixels_is_decoded() -> None:
    large = colours().resize((9900, 10_000), Image.Resampling.NEAREST)
    assert_shows(decoded(encoded(large, "JPEG", quality=95)), colours(), 4)


@pytest.mark.attack
@pytest.mark.parametrize("name", pictures.REFUSED)
def test_what_is_no_picture_is_refused_by_its_real_fault(name: str) -> None:
    content, message = pictures.REFUSED[name]
    with pytest.raises(UnreadableImage, match=message):
        DECODERS.decode(content, COLOUR)


def test_the_pictures_of_these_tests_are_what_other_programs_read() -> None:
    """Pillow without our limits reads the pictures, except those that are here because Pillow refuses them."""
    refused_by_pillow = set()
    for name, content in (pictures.WELL_FORMED | pictures.GREY).items():
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
                image.load()
        except Exception:
            refused_by_pillow.add(name)
    words = ("broken", "100 MB", "cut", "without an end", "wrong checksum")
    assert [name for name in refused_by_pillow if not any(word in name for word in words)] == []
