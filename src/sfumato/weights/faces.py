"""Networks that find faces and that restore them, from where they are installed or put."""

import importlib.util
from pathlib import Path

import torch

from sfumato.errors import ModelNotFoundError, UnknownModelError
from sfumato.nn.mtcnn import MTCNN, MTCNNConfig
from sfumato.weights import foreign
from sfumato.weights.files import read_safetensors
from sfumato.weights.foreign import Foreign
from sfumato.weights.pickles import as_safetensors, is_pickle

PACKAGE = "facenet_pytorch"  # carries weights that find faces (MIT); its program is never imported
INSTALL = "pip install --no-deps facenet-pytorch"


def load_detector(device: torch.device) -> MTCNN:
    """Load the network that finds faces.

    Raises:
        ModelNotFoundError: the package that carries its weights is not installed.
        WeightsError: they do not fit.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelNotFoundError(f"nothing here finds faces, which restoring them needs: {INSTALL}")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    network = MTCNN(MTCNNConfig())
    for stage in ("pnet", "rnet", "onet"):
        with as_safetensors(folder / f"{stage}.pt") as file:
            network.get_submodule(stage).load_state_dict(read_safetensors(file), strict=True)
    return network.requires_grad_(False).eval().to(device)


def load_restorer(path: Path, *, device: torch.device) -> Foreign:
    """Load GFPGAN, CodeFormer or another restorer of faces, in float32.

    Raises:
        ModelNotFoundError: there is no such file.
        UnknownModelError: something else, or spandrel is not installed.
        WeightsError: it is broken.
    """
    if is_pickle(path):
        with as_safetensors(path) as file:
            found = foreign.load(file, path, device=device, dtype=torch.float32)
    else:
        found = foreign.load(path, path, device=device, dtype=torch.float32)
    if not found.restores_faces:
        raise UnknownModelError(f"{path} is {found.name}, which does not restore faces")
    return found
