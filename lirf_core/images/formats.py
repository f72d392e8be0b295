"""What a file is, by its first bytes: the two formats that are decoded, and what people send by mistake."""

from lirf_core.images.decoder_process import JPEG, PNG

START_BYTES = 512  # of a file, enough to name its format

_SIGNATURES = {
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\0\x10\0\0\0CR": "a Canon raw image (CR2)",
    b"II*\0": "a TIFF image, or a camera's raw image",
    b"MM\0*": "a TIFF image, or a camera's raw image",
    b"II+\0": "a TIFF image",
    b"MM\0+": "a TIFF image",
    b"IIRO": "an Olympus raw image (ORF)",
    b"IIU\0": "a Panasonic raw image (RW2)",
    b"FUJIFILMCCD-RAW": "a Fujifilm raw image (RAF)",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image",
    b"\xffO\xffQ": "a JPEG 2000 image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\1\0": "an ICO image",
    b"8BPS": "a Photoshop file",
    b"v/1\1": "an OpenEXR image",
    b"#?RADIANCE": "an HDR image",
    b"qoif": "a QOI image",
    b"SIMPLE  =": "a FITS image",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"%PDF": "a PDF",
    b"%!PS": "a PostScript file",
    b"PK\3\4": "a zip archive",
    b"PK\5\6": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"\x00\x05\x16\x07": "a macOS resource fork",
    b"version https://git-lfs": "a Git LFS pointer, not the image itself",
    b"<svg": "an SVG image",
    b"<?xml": "an XML file, perhaps an SVG image",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    **{f"P{kind}{space}".encode(): "a PNM image" for kind in range(1, 8) for space in "\n\r\t "},
}
_BRANDS = {  # of ISO base media files, bytes 8 to 12
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC image"),
    b"crx ": "a Canon raw image (CR3)",
}


def is_accepted(start: bytes) -> bool:
    """Whether a file with these first bytes is a PNG or JPEG, or pretends to be."""
    return start.startswith((PNG, JPEG))


def name_format(start: bytes) -> str:
    """What a file with these first bytes is, with its article."""
    if not start:
        return "an empty file"
    if is_accepted(start):
        return "a PNG image" if start.startswith(PNG) else "a JPEG image"
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], "a video")
    if start[:4] == b"RIFF":
        return "a WebP image" if start[8:12] == b"WEBP" else "a video or sound"
    if start[128:132] == b"DICM":
        return "a DICOM image"
    for signature, name in _SIGNATURES.items():
        if start.startswith(signature):
            return name
    text = start.removeprefix(b"\xef\xbb\xbf")
    is_text = all(byte >= 0x20 or byte in b"\t\n\f\r" for byte in text)
    return "a text file" if is_text else "a file of an unknown format"
