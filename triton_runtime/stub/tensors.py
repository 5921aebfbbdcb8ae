"""Tensors of Triton's Python backend <-> NumPy, over DLPack."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from numpy.typing import NDArray


def to_numpy(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any]:
    """An input tensor of a request, not copied."""
    return np.from_dlpack(_Exporter(pb_utils.get_input_tensor_by_name(request, name)))


class _Exporter:
    """A tensor that takes the arguments of NumPy 2, and leaves them out where it asks Triton.

    Triton's own method is older and refuses them. NumPy would then ask again without, but building that refusal takes
    more time than all the rest.
    """

    def __init__(self, tensor: pb_utils.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_: object) -> Any:
        return self._tensor.to_dlpack()

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()


def to_triton(name: str, array: NDArray[np.number[Any]]) -> pb_utils.Tensor:
    """Hand an array over by DLPack.

    `pb_utils.Tensor(name, array)` is built against NumPy 1 and sends empty tensors, without an error, when it meets
    NumPy 2. `from_dlpack` knows nothing of NumPy's version. It marks the capsule as taken with another word than the
    DLPack protocol's, though, upon which NumPy prints an error when the capsule goes: so the right word is put there.
    """
    capsule = array.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, b"used_dltensor")
    return tensor


_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = (ctypes.py_object, ctypes.c_char_p)
