"""The conversion of a state dict by a table, on arrays that no model needs."""

import numpy as np
import pytest

from jaxseg.zoo.engine import CONV, DENSE, POINTWISE, VECTOR, Entry, import_state

TABLE = [
    Entry("conv.weight", ("params", "conv", "kernel"), CONV),
    Entry("dense.weight", ("params", "dense", "kernel"), DENSE),
    Entry("pointwise.weight", ("params", "pointwise", "kernel"), POINTWISE),
    Entry("dense.bias", ("params", "dense", "bias"), VECTOR),
]
STATE = {
    "conv.weight": np.zeros((4, 3, 5, 7)),
    "dense.weight": np.zeros((4, 3)),
    "pointwise.weight": np.zeros((4, 3, 1, 1)),
    "dense.bias": np.zeros(4),
}
MODEL = {
    "params": {
        "conv": {"kernel": np.zeros((5, 7, 3, 4))},
        "dense": {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)},
        "pointwise": {"kernel": np.zeros((3, 4))},
    }
}


def refuse(_):
    return False


def test_arrays_of_the_models_shapes_are_imported():
    params = import_state(STATE, TABLE, MODEL, refuse)["params"]
    assert params["conv"]["kernel"].shape == (5, 7, 3, 4)
    assert params["dense"]["kernel"].shape == params["pointwise"]["kernel"].shape == (3, 4)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv.weight", (4, 3, 7, 5)),
        ("dense.weight", (3, 4)),  # as many numbers, not transposed
        ("pointwise.weight", (4, 3, 3, 3)),  # its centre alone would fit
        ("dense.bias", (1,)),  # it would be broadcast
    ],
)
def test_misshapen_arrays_are_refused_by_name(name, shape):
    expected = STATE[name].shape
    with pytest.raises(ValueError) as refused:
        import_state(STATE | {name: np.zeros(shape)}, TABLE, MODEL, refuse)
    assert f"of another shape: {name} is {shape}, the model's is {expected}" in str(refused.value)
    assert str(refused.value).count("the model's is") == 1


def test_all_misshapen_arrays_are_listed():
    state = {name: np.zeros((2, *array.shape)) for name, array in STATE.items()}
    with pytest.raises(ValueError) as refused:
        import_state(state, TABLE, MODEL, refuse)
    assert all(f"{name} is (2, " in str(refused.value) for name in STATE)
