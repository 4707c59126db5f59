"""Weights in other forms than safetensors, told by their names, each with its way to safetensors.

"No such file" does not help a user whose folder is full of weights in a form that other tools or an unfinished
download left.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_SAFE: Final = "load the model with transformers once and save_pretrained it, or fetch its safetensors"
_FORMS: Final = (
    (r"adapter_(?:model|config)\..*", "a LoRA adapter, which only changes a base model: merge it into that first "
     "(peft: merge_and_unload, save_pretrained)"),
    (r".*\.(?:part|partial|incomplete|aria2|crdownload|tmp)", "a download that is not finished: go on with it"),
    (r"model\d+-mp\d+\.safetensors", "a model split over several processes by DeepSeek's convert.py: convert it with "
     "--model-parallel 1, or give the Hugging Face folder that it was made from"),
    (r"model-\d+-of-\d+\.safetensors", "a shard without model.safetensors.index.json: fetch the index too"),
    (r".*\.safetensors", "weights under another name: if they are all of the model, name them model.safetensors"),
    (r".*\.gguf", "GGUF, llama.cpp's form: fetch the safetensors of the model that it was made from"),
    (r".*\.(?:bin|pth?|ckpt|pkl)", "pickled weights, which can run code when they are opened and are not read: "
     + _SAFE),
    (r".*\.distcp", "a distributed checkpoint of PyTorch: put it together with its own tools and save safetensors"),
    (r".*\.(?:h5|msgpack|npz|onnx|tflite)", f"weights of another library: {_SAFE}"),
)  # fmt: skip
_NOT_WEIGHTS: Final = re.compile(r"(?:training_args|optimizer|scheduler|rng_state\w*)\.(?:bin|pth?)|.*token.*")


def what_is_there(folder: Path) -> str:
    """Weights that a folder without model.safetensors holds, and the cure: the end of a message."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not _NOT_WEIGHTS.fullmatch(path.name))
    for pattern, says in _FORMS:
        found = [name for name in names if re.fullmatch(pattern, name, re.I)]
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            return f"{found[0]}{more} is {says}"
    links = [path.name for path in folder.iterdir() if path.is_symlink() and not path.exists()]
    if links:
        return f"{links[0]} is a link to a missing file: fetch the model again, or copy what links point to"
    return "the folder holds no weights: fetch them"
