"""Faces: turned upright, restored, laid back; and what is said where something is missing."""

from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.transform import SimilarityTransform
from torch import Tensor

from sfumato.errors import ModelNotFoundError, RequestError, UnknownModelError
from sfumato.nn.mtcnn import MTCNN
from sfumato.pipeline import faces
from sfumato.pipeline.faces import TEMPLATE, FaceRestorer, find_faces, fit, load_face_restorer, restore_faces
from sfumato.pipeline.postprocess import Enlarged, Enlargement, enlarge_image
from sfumato.pipeline.upscalers import UpscalerShelf
from sfumato.weights.faces import load_detector
from sfumato.weights.files import write_safetensors
from sfumato.weights.foreign import Foreign

CPU = torch.device("cpu")
PHOTOGRAPH = Image.fromarray(data.astronaut())


class Painter:
    """In place of a restorer: leaves the upright face as it is, or makes it all red; remembers it."""

    def __init__(self, *, red: bool) -> None:
        self.red = red
        self.seen: list[Tensor] = []

    def restore(self, x: Tensor, weight: float) -> Tensor:
        self.seen.append(x)
        return torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand_as(x) if self.red else x


@cache
def detector() -> MTCNN:
    return load_detector(CPU)


def restorer(painter: Painter) -> FaceRestorer:
    return FaceRestorer(name="GFPGAN", network=cast(Foreign, painter), detector=detector(), device=CPU)


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.5])
def test_the_fit_is_skimages(angle: float) -> None:
    generator = np.random.default_rng(0)
    template = np.array([(z.real, z.imag) for z in TEMPLATE])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = 0.3 * template @ turn + 40 + generator.normal(size=(5, 2))
    expected = SimilarityTransform.from_estimate(points, template)
    scale, shift = fit(tuple(complex(x, y) for x, y in points))
    matrix = [[scale.real, -scale.imag, shift.real], [scale.imag, scale.real, shift.imag], [0, 0, 1]]
    np.testing.assert_allclose(matrix, expected.params, atol=1e-9)


def test_an_upright_face_has_its_points_where_the_template_has_them() -> None:
    painter = Painter(red=False)
    restore_faces(PHOTOGRAPH, restorer(painter))
    (upright,) = painter.seen
    assert upright.shape == (1, 3, 512, 512)
    pixels = upright[0].mul(255).byte().permute(1, 2, 0).numpy()
    (points,) = find_faces(Image.fromarray(pixels), restorer(painter))
    # A face is not the mean face, and the second look is at another size: a twenty-fifth of the side.
    assert max(abs(there - wanted) for there, wanted in zip(points, TEMPLATE, strict=True)) < 20


def test_a_face_left_as_it_is_leaves_the_picture_as_it_is() -> None:
    out = restore_faces(PHOTOGRAPH, restorer(Painter(red=False)))
    difference = np.abs(np.array(out).astype(int) - np.array(PHOTOGRAPH))
    # There and back by bicubic interpolation, up by five and down again.
    assert difference.mean() < 0.2
    assert np.percentile(difference, 99.9) <= 12


def test_what_the_network_makes_lands_on_the_face_and_nowhere_else() -> None:
    out = np.array(restore_faces(PHOTOGRAPH, restorer(Painter(red=True))))
    ((left_eye, right_eye, nose, *_),) = find_faces(PHOTOGRAPH, restorer(Painter(red=True)))
    assert tuple(out[int(nose.imag), int(nose.real)]) == (255, 0, 0)
    changed = (out != np.array(PHOTOGRAPH)).any(2)
    rows, columns = changed.nonzero()
    reach = 3 * abs(right_eye - left_eye)
    assert changed.sum() > 1000
    assert np.abs(rows - nose.imag).max() < reach
    assert np.abs(columns - nose.real).max() < reach


def test_a_picture_without_faces_stays() -> None:
    coffee = Image.fromarray(data.coffee())
    assert restore_faces(coffee, restorer(Painter(red=True))) is coffee


def test_extras_blends_by_visibility_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = UpscalerShelf(Path("none"), device=CPU)
    monkeypatch.setattr(shelf, "load_face_restorer", lambda name: restorer(Painter(red=True)))
    given = Enlargement(
        upscaler="None", gfpgan_visibility=0.25, codeformer_visibility=1, codeformer_weight=0.5
    )
    *_, out = enlarge_image(PHOTOGRAPH, given, shelf)
    assert isinstance(out, Enlarged)
    assert out.infotext == "GFPGAN visibility: 0.25, CodeFormer visibility: 1, CodeFormer weight: 0.5"
    only = Enlargement(upscaler="None", gfpgan_visibility=0.25)
    *_, quarter = enlarge_image(PHOTOGRAPH, only, shelf)
    assert isinstance(quarter, Enlarged)
    whole = restore_faces(PHOTOGRAPH, restorer(Painter(red=True)))
    expected = 0.75 * np.array(PHOTOGRAPH).astype(float) + 0.25 * np.array(whole)
    assert np.abs(np.array(quarter.image) - expected).max() <= 1


@pytest.mark.parametrize("name", faces.RESTORERS)
def test_a_missing_restorer_says_where_its_file_goes(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=rf"{name}….pth\) into .*{faces.RESTORERS[name]}"):
        load_face_restorer(name, tmp_path, device=CPU)


def test_an_upscaler_in_the_restorers_place_is_named(tmp_path: Path) -> None:
    from sfumato.nn.srvgg import SRVGGConfig, SRVGGNet

    (tmp_path / "GFPGAN").mkdir()
    network = SRVGGNet(SRVGGConfig(convolutions=1, features=4, scale=2))
    write_safetensors(tmp_path / "GFPGAN" / "GFPGANv9.safetensors", dict(network.state_dict()))
    with pytest.raises(UnknownModelError, match="does not restore faces"):
        load_face_restorer("GFPGAN", tmp_path, device=CPU)


def test_without_the_detector_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.weights.faces.PACKAGE", "no_such_package")
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps facenet-pytorch"):
        load_detector(CPU)


@pytest.mark.parametrize("given", [{"gfpgan_visibility": -0.1}, {"codeformer_weight": 2.0}])
def test_parts_are_between_0_and_1(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(given))):
        Enlargement(**given)
