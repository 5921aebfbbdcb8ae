"""The images of one request while the model that was to answer them is replaced."""

import dataclasses

import pytest

from gateway.batch import detect_each
from gateway.deadline import Deadline
from gateway.detector import Query
from gateway.errors import GatewayError, ModelNotFound, TritonUnavailable
from gateway.model import find
from gateway.observer import Observer
from tests.fakes import MODEL, FakePredictor
from tests.gateway.test_rest_oip import INFER, json_request
from tests.gateway.test_rpc import infer_request

SOON = 30.0


class Renewing(FakePredictor):
    """Serves version 3 until it is first asked, and what `after` says from then on."""

    def __init__(self):
        super().__init__()
        self.models = {MODEL.name: dataclasses.replace(MODEL, versions=(3,))}
        self.after = {MODEL.name: dataclasses.replace(MODEL, versions=(4,), input_wh=(32, 32))}
        self.asked = []
        self.replaceable = []

    def find(self, name, version):
        return find(self.models, name, version)

    async def predict(self, model, version, tensor, deadline, *, is_replaceable=False):
        self.asked.append((version, tensor.shape))
        self.replaceable.append(is_replaceable)
        self.models = self.after
        if version not in model.versions or model != self.models.get(model.name):
            raise TritonUnavailable("that version has just been replaced")
        return await super().predict(model, version, tensor, deadline)


@pytest.fixture
def predictor():
    return Renewing()


async def detect(core, images, query, **options):
    return await detect_each(core, Observer(core.metrics, "rest"), images, query, Deadline.after(SOON), **options)


@pytest.mark.parametrize("all_or_none", [False, True])
async def test_who_names_no_version_gets_the_one_that_took_its_place(core, predictor, png, all_or_none):
    """All images of the request get it, at its own input size, and are counted once."""
    outcomes = await detect(core, [png, png], Query(), all_or_none=all_or_none)
    assert [outcome.version for outcome in outcomes] == [4, 4]
    assert predictor.asked[-2:] == [(4, (32, 32, 3))] * 2
    assert all(predictor.replaceable)
    counted = core.metrics.registry.get_sample_value("eagleeye_detections_total", {"model": "toy", "label": "cat"})
    assert counted == 2


async def test_who_names_a_version_hears_that_it_went(core, predictor, png):
    """Another one would not do, and the next request is told which there are."""
    with pytest.raises(TritonUnavailable, match="just been replaced"):
        await detect(core, [png], Query(version=3), all_or_none=True)
    assert [version for version, _ in predictor.asked] == [3]
    assert predictor.replaceable == [False]
    with pytest.raises(ModelNotFound, match="no version 3; served are: 4"):
        await detect(core, [png], Query(version=3))


async def test_nothing_in_its_place_is_the_failure_that_it_was(core, predictor, png):
    """In a list each image has its error."""
    predictor.after = {}
    outcomes = await detect(core, [png, png], Query())
    assert all(isinstance(outcome, GatewayError) for outcome in outcomes)
    assert [str(outcome) for outcome in outcomes] == ["that version has just been replaced"] * 2


async def test_the_bad_images_of_a_list_fail_alone_all_the_same(core, png):
    """What is wrong with an image has nothing to do with it."""
    bad, good = await detect(core, [b"no image", png], Query())
    assert (bad.code, good.version) == ("unsupported_media_type", 4)


async def test_both_faces_say_which_version_answered(rest, rpc, predictor, png):
    """REST's own route, and the Open Inference Protocol over REST and gRPC."""
    response = await rest.post("/v1/detect", data=png)
    assert (await response.json())["model"]["version"] == "4"
    predictor.after = {MODEL.name: dataclasses.replace(MODEL, versions=(5,))}
    response = await rest.post(INFER, json=json_request(png))
    assert (await response.json())["model_version"] == "5"
    predictor.after = {MODEL.name: dataclasses.replace(MODEL, versions=(6,))}
    assert (await rpc.ModelInfer(infer_request(png))).model_version == "6"
