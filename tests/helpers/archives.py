"""Write archives of images."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path


def tar_of(file: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(file, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return file


def zip_of(file: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file
