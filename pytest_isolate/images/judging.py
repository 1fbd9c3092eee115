"""What is wrong with an image, as far as a few small reads tell: for whoever wants to know before anything runs.

Read are the documents of an image (index, manifest, configuration; their digests are checked), the first block and the last bytes of its
layers, and small layers whole. What only unpacking can tell, a bad member in the middle, is told by that. Whatever is refused here would be
refused there, in the same words: what can't be decided cheaply passes.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

from pytest_isolate.images import docker_archive, oci
from pytest_isolate.images.compression import Limits, Pipeline, beginning, compression_of
from pytest_isolate.images.files import DirectoryFiles, Files, TarFiles, open_file
from pytest_isolate.images.image import Blob
from pytest_isolate.images.tar_reader import BLOCK, TarReader, check_begin
from pytest_isolate.images.unpack import NO_END
from pytest_isolate.model.errors import ImageError
from pytest_isolate.model.image import Source

__all__ = ["IMAGES", "judge"]

IMAGES: Final = {"oci": oci.image_of, "docker-archive": docker_archive.image_of}
"""By kind of the source: what finds the image in its files."""

_SMALL: Final = 1 << 20
"""Bytes of all layers together that are read to check their digests."""
_SUSPECT: Final = 256 << 20
"""Bytes of a tarball without an end that are read to see what is wrong with it."""
_ENDS: Final = 2 * BLOCK


def judge(source: Source) -> None:
    """
    Args:
        source: an image or a tarball.

    Raises:
        ImageError: naming the source.
    """
    try:
        if source.kind == "tarball":
            _tarball(source.path)
        else:
            _image(source)
    except ImageError as error:
        shown = str(source)
        raise error if shown in error.message else ImageError(f"{shown}: {error.message}", error.hint) from None


def _tarball(path: str) -> None:
    fd = open_file(path)
    try:
        size = os.fstat(fd).st_size
        kind = _begins(fd, 0, size)
        if not kind and any(os.pread(fd, _ENDS, max(0, size - _ENDS))) and size <= _SUSPECT:
            reader = TarReader(Pipeline(fd, 0, size, Limits()))
            for _ in reader.members():
                pass
            if not reader.ended:
                raise ImageError(NO_END)
    finally:
        os.close(fd)


def _image(source: Source) -> None:
    files: Files
    if os.path.isdir(source.path):
        files = DirectoryFiles(source.path)
    else:
        fd = open_file(source.path)
        try:
            size = os.fstat(fd).st_size
            if compression_of(os.pread(fd, 8, 0)):  # the documents are somewhere in it
                _begins(fd, 0, size)
                return
        finally:
            os.close(fd)
        files = TarFiles(source.path)
    small = _SMALL
    for blob in IMAGES[source.kind](files, source.tag).layers:
        small -= blob.size
        try:
            _layer(blob, whole=small >= 0)
        except ImageError as error:
            raise ImageError(f"{blob.name}: {error.message}", error.hint) from None


def _layer(blob: Blob, *, whole: bool) -> None:
    fd = open_file(blob.path)
    try:
        _begins(fd, blob.offset, blob.size)
        if whole:
            data = os.pread(fd, blob.size, blob.offset)
            wanted = [("its digest", blob.digest), ("its diff id", "" if compression_of(data) else blob.diff_id)]
            for what, digest in wanted:
                if digest and digest != (found := hashlib.sha256(data).hexdigest()):
                    raise ImageError(
                        f"digest mismatch: {what} is sha256:{digest}, its content has sha256:{found}", "get the image again"
                    )
    finally:
        os.close(fd)


def _begins(fd: int, offset: int, size: int) -> str:
    """Its compression. Raises ImageError where what begins there is no archive."""
    kind, block = beginning(fd, offset, size, BLOCK)
    if block is not None:
        check_begin(block)
    return kind
