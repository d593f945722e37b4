"""Search a folder for what must not be in it: file names and contents, unpacked, in every way a text may be written."""

import base64
import contextlib
import gzip
import html
import io
import json
import sqlite3
import tarfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib

IN_HEADERS = ["Prasert^Wongsa", "DOB1949-05-23", "StudyTime221507"]


def found(folder: Path, planted: Iterable[str], but: Iterable[Path] = ()) -> list[str]:
    """`file: word` for each planted word in the name or content of a file below `folder`; `but` is left out."""
    return [f"{path}: {word}" for path, word in places(folder, planted, but)[0]]


def places(folder: Path, planted: Iterable[str], but: Iterable[Path] = ()) -> tuple[list[tuple[Path, str]], int]:
    """The same as pairs, and how many contents were searched."""
    words, hits, searched = {word: written(word) for word in planted}, [], 0
    for path in sorted(folder.rglob("*")):
        if any(path.is_relative_to(left) for left in but):
            continue
        contents = [str(path.relative_to(folder)).encode(errors="surrogateescape")]
        if path.is_file() and not path.is_symlink():
            contents += unpacked(path.read_bytes())
            contents += _rows(path)
        searched += len(contents)
        for content in map(bytes.lower, contents):
            hits += [(path, word) for word, ways in words.items() if any(way in content for way in ways)]
    return hits, searched


def written(word: str) -> set[bytes]:
    """A word as UTF-8, UTF-16, JSON, HTML, in a URL, and in base64 at each of three offsets; in lower case."""
    plain = word.encode()
    ways = {plain, word.encode("utf-16-le"), json.dumps(word)[1:-1].encode(), html.escape(word).encode()}
    ways |= {urllib.parse.quote(word).encode(), urllib.parse.quote_plus(word).encode()}
    if len(plain) > 8:
        ways |= {base64.b64encode(b"\0" * n + plain)[4 if n else 0 : -4] for n in range(3)}
    return {way.lower() for way in ways}


def unpacked(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """A content, and what is packed in it: gzip, zip (also PyTorch's), tar; header extensions are not packed."""
    yield content
    if depth > 3:
        return
    with contextlib.suppress(OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError):
        if content.startswith(b"\x1f\x8b"):
            yield from unpacked(gzip.decompress(content), depth + 1)
        elif content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                for name in packed.namelist():
                    yield name.encode()
                    yield from unpacked(packed.read(name), depth + 1)
        elif content[257:262] == b"ustar":
            with tarfile.open(fileobj=io.BytesIO(content)) as packed:
                for member in packed:
                    yield member.name.encode()
                    yield from unpacked(packed.extractfile(member).read() if member.isfile() else b"", depth + 1)


def _rows(path: Path) -> list[bytes]:
    """The content of a SQLite database, which keeps a long text in pieces."""
    if path.read_bytes()[:15] != b"SQLite format 3":
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return ["\n".join(database.iterdump()).encode(errors="surrogateescape")]


def plant_in_header(path: Path, words: list[str] = IN_HEADERS) -> None:
    """Write `words` into a NIfTI file's free text and an extension, and a time of acquisition."""
    image = nib.load(path)
    image.header["descrip"], image.header["aux_file"] = (words[0][:79].encode(), words[-1][:23].encode())
    image.header["db_name"], image.header["intent_name"] = (words[0][:17].encode(), words[-1][:15].encode())
    image.header["toffset"] = 83112.0
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", " ".join(words).encode()))
    nib.save(image, path)
