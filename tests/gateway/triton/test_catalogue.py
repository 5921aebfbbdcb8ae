"""What a fleet serves while its endpoints differ."""

from dataclasses import replace

import pytest

from gateway.triton.catalogue import complete, join, serves
from tests.fakes import MODEL

WIDE = replace(MODEL, input_wh=(128, 32))


def of(*versions, model=MODEL):
    """What one endpoint serves."""
    return {"toy": replace(model, versions=versions)}


@pytest.mark.parametrize(
    "endpoints, versions, default",
    [
        ([of(1)], (1,), 1),
        ([of(1), of(1, 2), of(1)], (1, 2), 1),
        ([of(1, 2), of(1, 2), of(1)], (1, 2), 1),
        ([of(1), of(1), of(2), of(2)], (1, 2), 2),
        ([of(1), of(2), of(2)], (1, 2), 2),
        ([of(1, 2), of(1, 2)], (1, 2), 2),
    ],
)
def test_the_default_version_is_the_one_that_most_have(endpoints, versions, default):
    """Or the first endpoint with a new version would get everything; in a draw, the newer one."""
    model = join(endpoints)["toy"]
    assert (model.versions, model.default_version) == (versions, default)


@pytest.mark.parametrize(
    "endpoints, input_wh",
    [
        ([of(1), of(1), of(2, model=WIDE)], (64, 32)),
        ([of(1), of(2, model=WIDE), of(2, model=WIDE)], (128, 32)),
        ([of(1), of(2, model=WIDE)], (128, 32)),
        ([of(2), of(1, model=WIDE)], (64, 32)),
    ],
)
def test_of_two_interfaces_the_one_that_most_have_counts(endpoints, input_wh):
    """A tensor of one size can't go to the other; in a draw, the newer one."""
    assert join(endpoints)["toy"].input_wh == input_wh


def test_models_of_all_endpoints_are_there():
    """Whoever has them."""
    assert set(join([of(1), {"other": replace(MODEL, name="other")}, {}])) == {"toy", "other"}
    assert join([]) == {}


@pytest.mark.parametrize(
    "other, fits",
    [
        (MODEL, True),
        (replace(MODEL, iou_threshold=0.1, facts={"map": "0.5"}, versions=(3, 4)), True),
        (replace(MODEL, versions=(1,)), False),
        (WIDE, False),
        (replace(MODEL, labels=("dog", "cat")), False),
        (replace(MODEL, candidates=3), False),
    ],
)
def test_a_tensor_fits_where_the_interface_is_the_same(other, fits):
    """And the version is there; what concerns the gateway alone may differ."""
    assert serves({"toy": other}, MODEL, 3) is fits
    assert not serves({}, MODEL, 3)


def test_what_is_remembered_stands_behind_what_is_served():
    """It adds versions and models, and never changes what there is."""
    served, other = join([of(2)]), {"other": replace(MODEL, name="other")}
    assert complete(served, join([of(1)]))["toy"].versions == (1, 2)
    assert complete(served, join([of(1)]))["toy"].default_version == 2
    assert complete(served, join([of(1, model=WIDE)])) == served
    assert set(complete(served, other)) == {"toy", "other"}
    assert complete({}, join([of(1)])) == join([of(1)])
