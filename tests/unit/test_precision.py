"""Labels are of true fp32: no product that makes them is rounded to TF32 on a GPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hetero_brain.models.features import StackedFbank
from hetero_brain.models.precision import full_fp32
from hetero_brain.objectives.quantizers import (
    KMeansQuantizer,
    RandomProjectionQuantizer,
)

MATMUL = torch.backends.cuda.matmul
PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"}
NEW = hasattr(torch._C, "_get_fp32_precision_getter")  # PyTorch ≥ 2.9


class Products(TorchDispatchMode):
    """Keeps of each matrix product its type, and whether a GPU would round it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.name().split(".")[0] in PRODUCTS:
            rounds = MATMUL.fp32_precision == "tf32" if NEW else MATMUL.allow_tf32
            self.found.append((args[0].dtype, rounds))
        return operator(*args, **(kwargs or {}))


def legacy():
    MATMUL.allow_tf32 = True  # as SpeechBrain does


def general():
    torch.set_float32_matmul_precision("high")


def new():
    MATMUL.fp32_precision = "tf32"


@pytest.fixture(params=[legacy, general, *([new] if NEW else [])])
def tf32(request):
    """TF32 is allowed, by each of the ways to do so."""
    torch.set_float32_matmul_precision("highest")
    request.param()
    yield
    torch.set_float32_matmul_precision("highest")
    if NEW:
        MATMUL.fp32_precision = "ieee"


@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda x: RandomProjectionQuantizer(24)(x), (2, 600, 24)),
        (lambda x: KMeansQuantizer(24)(x), (2, 600, 24)),
        (lambda x: StackedFbank(8000)(x, torch.ones(len(x))), (2, 4000)),
    ],
    ids=["random projection", "k-means", "log-mels"],
)
def test_labels_are_not_rounded(make, shape, tf32):
    x = torch.randn(shape)
    with torch.autocast("cpu", torch.bfloat16), Products() as products:
        make(x)
    assert products.found and {*products.found} == {(torch.float32, False)}


def test_what_was_allowed_is_allowed_again(tf32):
    with pytest.raises(ZeroDivisionError), full_fp32():
        raise ZeroDivisionError
    with Products() as products:
        torch.mm(torch.ones(1, 1), torch.ones(1, 1))
    assert products.found == [(torch.float32, True)]
