"""Text that people wrote with any editor, on any system: a key, a list of classes."""

import codecs
import re
from pathlib import Path

_MARKS = {  # byte-order marks; the longer ones first, because UTF-32's begins like UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LINE_END = re.compile("\r\n|\n|\r")


class NotText(ValueError):
    """The file is not text in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark."""


def read(file: Path) -> str:
    """The file's text without its byte-order mark. Raises `NotText`, which shows nothing of the content, OSError."""
    content = file.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise NotText(
            f"'{file}' is not UTF-8 text: see line {line}. It may be Latin-1 (Windows-1252). Save it as UTF-8."
        ) from None
    if "\0" in text:
        raise NotText(f"'{file}' is not text. If it is UTF-16 without a byte-order mark, save it as UTF-8.")
    return text


def lines(file: Path) -> list[str]:
    """The file's lines without white space at their ends, and without empty lines at the end of the file.

    Only CR, LF and CRLF end a line: a name may have any other character. Raises as `read` does.
    """
    return [line.strip() for line in _LINE_END.split(read(file).rstrip())]
