import numpy as np
import pytest
import torch
from torch import Tensor

from kdq.errors import UserError
from kdq.models.images import as_float, as_tensor, check_images


def pictures(dtype: torch.dtype = torch.uint8) -> Tensor:
    made = torch.randint(0, 256, (4, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return made if dtype == torch.uint8 else (made / 255).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_in_range_are_taken_as_they_are(dtype: torch.dtype) -> None:
    given = pictures(dtype)
    assert check_images(given, channels=3) is given
    assert as_float(given).dtype == torch.float32
    torch.testing.assert_close(as_float(given), pictures(torch.float32), rtol=0, atol=0.005)


@pytest.mark.parametrize("change", [lambda a: a, lambda a: a[::-1], lambda a: a[:, :, ::-1, ::2]])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_numpy_arrays_are_converted(change, dtype: torch.dtype) -> None:
    array = change(pictures(dtype).numpy())
    array.setflags(write=False)
    made = check_images(array, channels=3)
    assert np.array_equal(made.numpy(), array)
    assert made.dtype == dtype


def nan() -> Tensor:
    made = pictures(torch.float32)
    made[2, 1, 0, 0] = float("nan")
    return made


BAD = {
    "0 to 255": (lambda: pictures(torch.float32) * 255, r"values from 0 to 255; must be finite and from 0 to 1"),
    "normalised": (lambda: (pictures(torch.float32) - 0.5) / 0.25, r"values from -2 to 2; .* neither normalised"),
    "NaN": (nan, "values from nan to nan; must be finite"),
    "infinite": (lambda: pictures(torch.float32) / 0, "must be finite"),
    "integers": (lambda: pictures().long(), r"of torch.int64; must be uint8 from 0 to 255, or floating-point"),
    "booleans": (lambda: pictures() > 9, "of torch.bool"),
    "one image": (lambda: pictures()[0], r"of shape \[3, 6, 5\]; must be \[N, 3, H, W\]"),
    "channels last": (lambda: pictures().permute(0, 2, 3, 1), r"of shape \[4, 6, 5, 3\]; must be \[N, 3, H, W\]"),
    "none": (lambda: pictures()[:0], "0 pictures: must be at least 1"),
    "empty": (lambda: pictures()[:, :, :0], "must have values"),
    "meta": (lambda: pictures().to("meta"), "on meta; must have values"),
    "sparse": (lambda: pictures(torch.float32).to_sparse(), "torch.sparse_coo, on cpu; must have values"),
    "list": (lambda: list(pictures()), "pictures: a list; must be a tensor or a NumPy array"),
    "objects": (lambda: np.array([[[["a"]]]]), "a NumPy array of <U1"),
}


@pytest.mark.parametrize("name", BAD)
def test_other_images_are_refused_in_one_line(name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(UserError, match=message) as caught:
        check_images(make(), channels=3, what="pictures")
    assert "\n" not in str(caught.value)


def test_rounding_may_leave_the_range() -> None:
    check_images(torch.full((1, 1, 2, 2), 1 + 1e-6))
    with pytest.raises(UserError, match=r"from 1\.001 to 1\.001"):
        check_images(torch.full((1, 1, 2, 2), 1.001))


def test_any_number_of_channels_without_a_model() -> None:
    assert check_images(pictures()[:, :1]).shape == (4, 1, 6, 5)
    assert as_tensor(pictures(), "").shape == (4, 3, 6, 5)
