"""diffusers' train_controlnet.py, run as it is: what it needs to start, and how fast it goes by its own progress bar.

The script is no part of the package `diffusers`: it is examples/controlnet/train_controlnet.py of its repository, of
which a copy is given by its path. Two libraries that it imports are brought where they are missing, into a folder of
its own, and it finds them through PYTHONPATH:

accelerate   by pip, without what it depends on, which is there.
torchvision  would bring a PyTorch of its own. In its place stands a module with the five transforms that the script
             takes from it and the same arithmetic, through Pillow and numpy, as torchvision itself does for pictures.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Run by Python before anything else. transformers would take the stand-in for the whole library and import more of it
# than is there, so it is asked, and remembers, before there is one.
FIRST = """
import sys
from pathlib import Path

from transformers.utils import import_utils

assert not import_utils.is_torchvision_available()
sys.path.append(str(Path(__file__).parent / "stand-in"))
"""
TRANSFORMS = '''
"""Stands in for torchvision.transforms: pictures of Pillow to tensors, as torchvision 0.2x does it."""

from enum import Enum

import numpy as np
import torch
from PIL import Image


class InterpolationMode(Enum):
    BILINEAR = "bilinear"


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, image):
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    """The shorter side to so many pixels."""

    def __init__(self, size, interpolation):
        self.size = size

    def __call__(self, image):
        width, height = image.size
        short = min(width, height)
        if short == self.size:
            return image
        return image.resize((self.size * width // short, self.size * height // short), Image.Resampling.BILINEAR)


class CenterCrop:
    def __init__(self, size):
        self.size = size

    def __call__(self, image):
        left, top = round((image.width - self.size) / 2), round((image.height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


class ToTensor:
    def __call__(self, image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def __call__(self, tensor):
        return tensor.clone().sub_(self.mean).div_(self.std)
'''
BAR = re.compile(rb"Steps:[^\r\n]*?\| (\d+)/(\d+) \[")
Marks = list[tuple[float, int]]  # seconds, and steps that were done then


@dataclass(frozen=True)
class Script:
    """The script, and the folder in which libraries lie that only it needs."""

    path: Path
    libraries: Path

    def marks(
        self, words: Sequence[object], folder: Path, environment: dict[str, str], log: Path | None = None
    ) -> Marks:
        """Run it to its end in a folder; returns when each step was shown. Raises: RuntimeError with what it said."""
        line = [sys.executable, str(self.path), *map(str, words)]
        paths = os.pathsep.join([str(self.libraries), environment.get("PYTHONPATH", "")])
        surroundings = {**environment, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            line, cwd=folder, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        said, marks = b"", Marks()
        while piece := os.read(process.stderr.fileno(), 1 << 16):
            now, said = time.monotonic(), (said + piece)[-(1 << 16) :]
            found = BAR.findall(piece)
            if found and (not marks or int(found[-1][0]) > marks[-1][1]):
                marks.append((now, int(found[-1][0])))
        if process.wait():
            raise RuntimeError(f"{' '.join(line)}\n{said.decode(errors='replace')}")
        return marks


def script(path: Path, libraries: Path) -> Script:
    """The script at a path, with what it needs to be imported."""
    libraries.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("accelerate") is None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(libraries), "accelerate"]
        subprocess.run(pip, check=True)
    if importlib.util.find_spec("torchvision") is None:
        package = libraries / "stand-in/torchvision"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text("")
        (package / "transforms.py").write_text(TRANSFORMS)
        (libraries / "sitecustomize.py").write_text(FIRST)
    return Script(path.absolute(), libraries.absolute())


def write_parquet(pairs: Path, folder: Path) -> Path:
    """The pairs of a metadata.jsonl as the script takes a data set of one's own: parquet, the files' bytes in it."""
    from datasets import Dataset, Features, Image, Value

    rows = [json.loads(line) for line in (pairs / "metadata.jsonl").read_text().splitlines()]
    columns = {
        "image": [str(pairs / row["file_name"]) for row in rows],
        "conditioning_image": [str(pairs / row["conditioning_image"]) for row in rows],
        "text": [row["text"] for row in rows],
    }
    features = Features({"image": Image(), "conditioning_image": Image(), "text": Value("string")})
    folder.mkdir(parents=True)
    Dataset.from_dict(columns, features=features).to_parquet(folder / "train-00000-of-00001.parquet")
    return folder
