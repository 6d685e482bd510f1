"""Where everything lies in the folder of caches. Knows names of files, not what is in them.

    files/                                 which file of the archive holds which video
    analyses/ID/settings.json              settings of an analysis
                manifests/ab/VIDEO.parquet
                done/ab/VIDEO.json, failed/ab/VIDEO.json
    works/ID/settings.json                 model, and settings of the caches
             caches/ab/VIDEO.safetensors, or of a video in segments
             caches/ab/VIDEO.segments/00000.safetensors, 00001.safetensors, ...
             done/ab/VIDEO.json, failed/ab/VIDEO.json
    catalogue/ID.parquet                   a row per video, made from the records
    models/                                identities of models whose files stay the same
    runs/                                  runs at work, and their unfinished files

VIDEO is the digest of a video's content and ab its first two digits; ID is the digest of
settings.json. So what is asked for with other settings or of another model has another ID, and a
video that changed has another name.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cachefmt.segments import FILE_SUFFIX, FOLDER_SUFFIX, segment_path
from jobs.atomic import write_atomic
from jobs.records import Ledger, fan_out, items_in, read_object


class ProductFolder:
    """The products of one ID: a file of each video, and records of how it went.

    Some kinds of product have a second form, a folder, which is whole only if there is a record.
    """

    def __init__(
        self, folder: Path, products: str, suffix: str, folder_suffix: str | None = None
    ) -> None:
        self.id = folder.name
        self.folder = folder
        self._settings = folder / "settings.json"
        self.ledger = Ledger(folder)
        self._products = folder / products
        self._suffix = suffix
        self._folder_suffix = folder_suffix

    def product(self, video: str) -> Path:
        """Where a video's file is, or will be, or its folder if there is one and no file."""
        file = self.file_of(video)
        if self._folder_suffix is None or file.exists() or not self.folder_of(video).is_dir():
            return file
        return self.folder_of(video)

    def file_of(self, video: str) -> Path:
        return fan_out(self._products, video, self._suffix)

    def folder_of(self, video: str) -> Path:
        if self._folder_suffix is None:
            raise ValueError(f"{self.folder}: its products are files")
        return fan_out(self._products, video, self._folder_suffix)

    def finished(self) -> set[str]:
        """Videos with a record and a file or folder."""
        suffixes = filter(None, (self._suffix, self._folder_suffix))
        return self.ledger.done() & items_in(self._products, *suffixes)

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
            text = json.dumps(settings, sort_keys=True, indent=1)
            write_atomic(self._settings, f"{text}\n".encode(), staging)

    def read_settings(self) -> dict[str, Any]:
        """What the ID stands for; a RecordError if that cannot be told."""
        return read_object(self._settings, "settings", "batch index writes it again")


class Store:
    """The folder of caches."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        self.models = root / "models"

    def manifests(self, id: str) -> ProductFolder:
        return ProductFolder(self.root / "analyses" / id, "manifests", ".parquet")

    def caches(self, id: str) -> ProductFolder:
        return ProductFolder(
            self.root / "works" / id, "caches", FILE_SUFFIX, folder_suffix=FOLDER_SUFFIX
        )

    def catalogue(self, id: str) -> Path:
        return self.root / "catalogue" / f"{id}.parquet"

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
