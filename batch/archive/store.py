"""Where everything lies in the folder of caches, as README.md beside this file draws it.

Knows names of files, not what is in them. A video is named by the digest of its content, and a
folder of products by an ID, the digest of its settings.json: what is asked for with other settings
or of another model has another ID, and a video that changed has another name.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cachefmt.segments import FILE_SUFFIX, FOLDER_SUFFIX, segment_path
from jobs.records import Ledger, fan_out, items_in, read_object, write_object


class ProductFolder:
    """The products of one ID: a file of each video, and records of how it went.

    A cache in segments is a folder, which is whole only if there is a record.
    """

    def __init__(self, folder: Path, products: str, suffix: str) -> None:
        self.id = folder.name
        self.folder = folder
        self._settings = folder / "settings.json"
        self.ledger = Ledger(folder)
        self._products = folder / products
        self._suffix = suffix
        self._calibration = self._products / "calibration.json"

    def product(self, video: str) -> Path:
        """Where a video's file is, or will be, or its folder if there is one and no file."""
        file, folder = self.file_of(video), self.folder_of(video)
        return folder if folder.is_dir() and not file.exists() else file

    def file_of(self, video: str) -> Path:
        return fan_out(self._products, video, self._suffix)

    def folder_of(self, video: str) -> Path:
        return fan_out(self._products, video, FOLDER_SUFFIX)

    def files_of(self, video: str) -> list[Path]:
        """All files that there are of a video, its records last."""
        folder = self.folder_of(video)
        segments = sorted(folder.iterdir()) if folder.is_dir() else []
        product = self.file_of(video)
        found = [*segments, product, *self.ledger.files_of(video)]
        return [file for file in found if file.is_file()]

    def finished(self) -> set[str]:
        """Videos with a record and a file or folder."""
        return self.ledger.done() & items_in(self._products, self._suffix, FOLDER_SUFFIX)

    def note_calibration(self, sha256: str, staging: Path) -> None:
        """Write down, once, that files here need a calibration."""
        noted = self.noted_calibrations()
        if sha256 not in noted:
            write_object(self._calibration, {"sha256": [*noted, sha256]}, staging)

    def noted_calibrations(self) -> list[str]:
        """Digests of those that files here need, in the order in which they were made."""
        if not self._calibration.exists():
            return []
        found = read_object(self._calibration, "calibration", "it is noted again").get("sha256")
        return list(map(str, found)) if isinstance(found, list) else []

    def whole(self) -> set[str]:
        """Videos that are finished, in folders with as many segments as their record says."""
        files = items_in(self._products, self._suffix)
        return {video for video in self.finished() if video in files or self._is_whole(video)}

    def _is_whole(self, video: str) -> bool:
        """By names only: what a segment holds is told when it is read."""
        folder, segments = self.folder_of(video), self.ledger.read_done(video)["segments"]
        names = set(os.listdir(folder)) if folder.is_dir() else set[str]()
        return all(segment_path(folder, number).name in names for number in range(segments))

    def state(self) -> list[int]:
        """Changes whenever a file is put here or removed."""
        folders = [folder for folder in self.folder.glob("*/*") if folder.is_dir()]
        return [folder.stat().st_mtime_ns for folder in sorted(folders)]

    def write_settings(self, settings: Mapping[str, Any], staging: Path) -> None:
        """Write down what the ID stands for, once."""
        if not self._settings.exists():
            write_object(self._settings, settings, staging)

    def read_settings(self) -> dict[str, Any]:
        """What the ID stands for; a RecordError if that cannot be told."""
        return read_object(self._settings, "settings", "batch index writes it again")


class Store:
    """The folder of caches."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        self.models = root / "models"
        self.answers = root / "answers"

    def manifests(self, id: str) -> ProductFolder:
        return ProductFolder(self.root / "analyses" / id, "manifests", ".parquet")

    def caches(self, id: str) -> ProductFolder:
        return ProductFolder(self.root / "works" / id, "caches", FILE_SUFFIX)

    def catalogue(self, id: str) -> Path:
        return self.root / "catalogue" / f"{id}.parquet"

    def captions(self, id: str) -> Path:
        return self.root / "captions" / f"{id}.parquet"

    def all_manifests(self) -> list[ProductFolder]:
        """Those of all analyses, by ID."""
        return [
            self.manifests(path.parent.name)
            for path in sorted(self.root.glob("analyses/*/settings.json"))
        ]

    def all_caches(self) -> list[ProductFolder]:
        """Those of all models and settings, what was asked for first at first."""
        found = sorted(
            self.root.glob("works/*/settings.json"), key=lambda path: path.stat().st_mtime_ns
        )
        return [self.caches(path.parent.name) for path in found]
