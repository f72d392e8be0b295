"""One picture as cameras, phones, scanners and editors write it, and files that are no picture we can read."""

import io
import struct
import zlib

import numpy
from PIL import Image, ImageCms

SIDE = 32
QUADRANTS = [(230, 20, 20), (20, 200, 20), (20, 20, 230), (240, 240, 240)]  # from left to right, downwards


def colours() -> Image.Image:
    """Red, green, blue and white quadrants, so that each turn and flip looks different."""
    image = Image.new("RGB", (SIDE, SIDE))
    for number, colour in enumerate(QUADRANTS):
        image.paste(colour, [SIDE // 2 * (number % 2), SIDE // 2 * (number // 2)] + [SIDE] * 2)
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg(*segments: bytes, has_jfif: bool = True, image: Image.Image | None = None, **options: object) -> bytes:
    """A JPEG with these segments after its JFIF segment, or instead of it."""
    content = encoded(image or colours(), "JPEG", **{"quality": 95, "subsampling": 0, **options})
    jfif_bytes = 18
    assert content[2:4] == b"\xff\xe0"
    return content[: 2 + (jfif_bytes if has_jfif else 0)] + b"".join(segments) + content[2 + jfif_bytes :]


def exif(orientation: int = 1, order: str = "<", before: tuple[int, int, int, int] | None = None) -> bytes:
    """EXIF data with an orientation. before: an entry in front of it, as tag, type, count and value."""
    entries = [*([before] if before else []), (0x0112, 3, 1, orientation)]
    content = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, count, value in entries:
        content += struct.pack(f"{order}HHI", tag, kind, count) + struct.pack(
            order + ("HH" if kind == 3 else "I"), *([value, 0] if kind == 3 else [value])
        )
    return content + bytes(4)


def exif_segment(**options: object) -> bytes:
    return segment(0xE1, b"Exif\0\0" + exif(**options))  # type: ignore[arg-type]


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def mpo() -> bytes:
    return encoded(colours(), "MPO", save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE))], quality=95)


def ycck() -> bytes:
    """As Photoshop writes CMYK: inverted, and as luminance, chrominance and black."""
    cyan_magenta_yellow = colours().point(lambda value: 255 - value)
    luminance = cyan_magenta_yellow.convert("YCbCr").split()
    stored = Image.merge(
        "CMYK", [*(band.point(lambda value: 255 - value) for band in luminance), Image.new("L", (SIDE, SIDE))]
    )
    content = bytearray(encoded(stored, "JPEG", quality=95))
    adobe = content.index(b"Adobe")
    content[adobe + 11] = 2  # the transform
    return bytes(content)


def without_huffman_tables(content: bytes) -> bytes:
    """As a frame of a motion JPEG, which uses the tables of the standard."""
    while (place := content.find(b"\xff\xc4")) >= 0:
        content = content[:place] + content[place + 2 + int.from_bytes(content[place + 2 : place + 4], "big") :]
    return content


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, pixels: numpy.ndarray | None = None, colour: int = 2, after: bytes = b"") -> bytes:  # type: ignore[type-arg]
    """A PNG with these chunks before its pixels, and others after. pixels: (H, W) or (H, W, C), of 8 or 16 bits."""
    values = numpy.asarray(colours()) if pixels is None else pixels
    bits = values.dtype.itemsize * 8
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(f">u{values.dtype.itemsize}").tobytes() for row in values)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + data + after + chunk(b"IEND", b"")


def interlaced_png() -> bytes:
    values, rows = numpy.asarray(colours()), b""
    for y, x, down, across in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        rows += b"".join(b"\0" + row.tobytes() for row in values[y::down, x::across])
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 1)
    pieces = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + pieces


def deep(channels: int, fill: int = 65535) -> numpy.ndarray:  # type: ignore[type-arg]
    """The picture with 16 bits for each value; channels over three are filled."""
    values = numpy.asarray(colours()).astype(numpy.uint16) * 257
    extra = numpy.full((SIDE, SIDE, channels - 3), fill, numpy.uint16)
    return numpy.concatenate([values, extra], 2)


def with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


TEXT_BOMB = zlib.compress(bytes(100_000_000), 1)
CAMERA_EXIF = exif_segment(before=(0x010F, 2, 6, 26))  # the maker's name lies beyond the end
WELL_FORMED = {
    "jpeg": jpeg(),
    "jpeg with exif and no density": jpeg(exif_segment()),
    "jpeg with exif instead of jfif": jpeg(exif_segment(order=">"), has_jfif=False),
    "jpeg with exif and density": jpeg(exif_segment(), dpi=(72, 72)),
    "jpeg with a broken entry in its exif": jpeg(CAMERA_EXIF),
    "jpeg with a cut exif": jpeg(segment(0xE1, b"Exif\0\0" + exif()[:15])),
    "jpeg with an empty exif": jpeg(segment(0xE1, b"Exif\0\0")),
    "jpeg with exif of nonsense": jpeg(segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "jpeg with two exifs": jpeg(exif_segment(), exif_segment()),
    "jpeg with a thumbnail": jpeg(segment(0xE1, b"Exif\0\0" + exif() + jpeg(quality=5))),
    "jpeg with xmp": jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")),
    "jpeg with a broken photoshop segment": jpeg(segment(0xED, b"Photoshop 3.0\08BIM\x03\xed")),
    "jpeg with a comment": jpeg(segment(0xFE, b"a comment")),
    "jpeg with a profile": jpeg(icc_profile=profile()),
    "jpeg with a profile of 3 MB": jpeg(icc_profile=profile() + bytes(3_000_000)),
    "jpeg with a broken profile": jpeg(segment(0xE2, b"ICC_PROFILE\0\7")),
    "jpeg with a broken jfif": jpeg(segment(0xE0, b"JFIF\0"), has_jfif=False),
    "jpeg with a broken adobe segment": jpeg(segment(0xEE, b"Adobe")),
    "several pictures in one file": mpo(),
    "jpeg with a broken list of pictures": jpeg(segment(0xE2, b"MPF\0II*\0\xff\xff")),
    "progressive jpeg": jpeg(progressive=True),
    "optimised jpeg": jpeg(optimize=True),
    "jpeg with restarts": jpeg(restart_marker_rows=1),
    "jpeg with half of the colours": jpeg(subsampling=2),
    "jpeg in rgb": encoded(colours(), "JPEG", quality=95, keep_rgb=True),
    "jpeg in cmyk": encoded(colours().convert("CMYK"), "JPEG", quality=95),
    "jpeg in ycck": ycck(),
    "jpeg in cmyk with a profile": encoded(colours().convert("CMYK"), "JPEG", quality=95, icc_profile=profile()),
    "jpeg with fill bytes": jpeg(b"\xff\xff\xff"),
    "jpeg with a film behind it": jpeg() + b"\0\0\0\x18ftypmp42" + bytes(5000),
    "jpeg without an end": jpeg()[:-2],
    "progressive jpeg without an end": jpeg(progressive=True)[:-2],
    "frame of a motion jpeg": without_huffman_tables(jpeg()),
    "png": png(),
    "png of pillow": encoded(colours(), "PNG"),
    "interlaced png": interlaced_png(),
    "png with a palette": encoded(colours().quantize(4), "PNG"),
    "png with a palette and transparency": encoded(colours().quantize(4), "PNG", transparency=b"\0\x80\xff"),
    "png with alpha": encoded(with_alpha(colours()), "PNG"),
    "png with a transparent colour": encoded(colours(), "PNG", transparency=(20, 20, 230)),
    "png of 16 bits": png(pixels=deep(3)),
    "png of 16 bits with alpha": png(pixels=deep(4), colour=6),
    "animated png": encoded(colours(), "PNG", save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE))]),
    "png with exif": png(chunk(b"eXIf", exif())),
    "png with exif after the pixels": png(after=chunk(b"eXIf", exif(order=">"))),
    "png with a cut exif": png(chunk(b"eXIf", exif()[:9])),
    "png with a profile": encoded(colours(), "PNG", icc_profile=profile()),
    "png with a profile of 100 MB": png(chunk(b"iCCP", b"a\0\0" + TEXT_BOMB)),
    "png with colours": png(chunk(b"sRGB", b"\0"), chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"sBIT", b"\5\6\5")),
    "png with broken colours": png(
        chunk(b"gAMA", b""), chunk(b"cHRM", b"\1"), chunk(b"sRGB", b""), chunk(b"pHYs", b"\1")
    ),
    "png with text": png(
        chunk(b"tEXt", b"Title\0a"), chunk(b"iTXt", b"Title\0\0\0\0\0a"), chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a"))
    ),
    "png with broken text": png(chunk(b"tEXt", b"Title"), chunk(b"iTXt", b"a"), chunk(b"zTXt", b"a\0\0nonsense")),
    "png with text of 100 MB": png(chunk(b"zTXt", b"a\0\0" + TEXT_BOMB)),
    "png with a wrong checksum of its text": png(chunk(b"tEXt", b"Title\0a")[:-1] + b"\0"),
    "png with an unknown chunk": png(chunk(b"prVt", b"x")),
    "png with something behind it": png() + bytes(1000),
    "png without an end": png()[:-12],
}
GREY = {
    "grey jpeg": jpeg(image=colours().convert("L")),
    "grey png": encoded(colours().convert("L"), "PNG"),
    "grey png with alpha": encoded(with_alpha(colours().convert("L")), "PNG"),
    "grey png of 16 bits": png(pixels=numpy.asarray(colours().convert("L")).astype(numpy.uint16) * 257, colour=0),
    "grey png of 16 bits with alpha": png(
        pixels=numpy.stack([numpy.asarray(colours().convert("L")).astype(numpy.uint16) * 257] * 2, 2), colour=4
    ),
}


def iso_media(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(200)


def frame_changed(offset: int, value: int) -> bytes:
    """A JPEG with another byte in its SOF segment: 1 is the kind, 4 the bits, 9 the channels."""
    content = bytearray(jpeg())
    content[content.index(b"\xff\xc0") + offset] = value
    return bytes(content)


def png_that_claims(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def second_header() -> bytes:
    """A PNG that says first that it is small."""
    content = png()
    return content[:33] + png_that_claims(30_000, 30_000)[8:33] + content[33:]


def jpeg_that_claims(width: int, height: int, **options: object) -> bytes:
    content = bytearray(jpeg(**options))  # type: ignore[arg-type]
    frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


REFUSED = {  # and a part of the message
    "heic": (iso_media(b"heic"), "a HEIC image. Only PNG and JPEG"),
    "avif": (iso_media(b"avif"), "an AVIF image"),
    "film": (iso_media(b"mp42"), "a video"),
    "canon raw": (iso_media(b"crx "), r"a Canon raw image \(CR3\)"),
    "older canon raw": (b"II*\0\x10\0\0\0CR\2\0" + bytes(100), r"a Canon raw image \(CR2\)"),
    "fujifilm raw": (b"FUJIFILMCCD-RAW 0201" + bytes(100), "a Fujifilm raw image"),
    "webp": (encoded(colours(), "WEBP"), "a WebP image"),
    "gif": (encoded(colours(), "GIF"), "a GIF image"),
    "bmp": (encoded(colours(), "BMP"), "a BMP image"),
    "tiff": (encoded(colours(), "TIFF"), "a TIFF image"),
    "jpeg 2000": (encoded(colours(), "JPEG2000"), "a JPEG 2000 image"),
    "dicom": (bytes(128) + b"DICM" + bytes(100), "a DICOM image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG image"),
    "pdf": (b"%PDF-1.7\n", "a PDF"),
    "zip": (b"PK\3\4" + bytes(100), "a zip archive"),
    "web page": (b"<!DOCTYPE html><title>Not found</title>", "a web page"),
    "text": ("Gänse".encode(), "a text file"),
    "nothing": (b"", "an empty file"),
    "noise": (b"\1\2\3" * 50, "a file of an unknown format"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "resource fork": (b"\0\5\x16\7\0\2\0\0Mac OS X", "a macOS resource fork"),
    "jpeg of 12 bits": (frame_changed(4, 12), "has 12 bits for each value; only JPEGs of 8 bits"),
    "lossless jpeg": (frame_changed(1, 0xC3), "a lossless or hierarchical JPEG"),
    "jpeg-ls": (frame_changed(1, 0xF7), "a lossless or hierarchical JPEG"),
    "jpeg of two channels": (frame_changed(9, 2), "has 2 channels; only JPEGs of 1, 3 or 4"),
    "cut jpeg": (jpeg()[:-50], "a JPEG image that ends too early"),
    "jpeg that ends in its head": (jpeg()[:30], "a JPEG image that ends too early"),
    "jpeg that ends in its last rows": (jpeg()[:-12], "a JPEG image that ends too early"),
    "jpeg of a million segments": (b"\xff\xd8\xff" + b"\xff\xfe\0\2" * 1_000_000, "a JPEG image that is damaged"),
    "jpeg of a million fill bytes": (b"\xff\xd8" + b"\xff" * 1_000_000, "a JPEG image that is damaged"),
    "png of a million chunks": (
        png()[:33] + chunk(b"IDAT", b"") * 1_000_000 + png()[33:],
        "a PNG image that is damaged",
    ),
    "png with a second header": (second_header(), "a PNG image that is damaged"),
    "cut png": (encoded(colours(), "PNG")[:-30], "a PNG image that ends too early"),
    "png that ends in its head": (png()[:20], "a PNG image that ends too early"),
    "png with a wrong checksum": (png()[:60] + b"x" + png()[61:], "a PNG image that is damaged"),
    "png of 101 megapixels": (
        png_that_claims(10_100, 10_000),
        "10100 x 10000 pixels, which is 101,000,000; the limit is 100,000,000",
    ),
    "jpeg of 101 megapixels": (jpeg_that_claims(10_100, 10_000), "the limit is 100,000,000"),
    "png of 90 megapixels with a palette": (
        png_that_claims(9000, 10_000, colour=3),
        r"has 90,000,000 pixels. To decode it takes 450 MB .* the limit is 470 MB",
    ),
    "progressive jpeg of 99 megapixels": (
        jpeg_that_claims(9900, 10_000, progressive=True),
        "save it as a JPEG that is not progressive",
    ),
}
