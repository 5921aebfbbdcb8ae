"""What is expected back is waited for, and is not said to be there."""

from tritonclient.grpc import service_pb2

from tests.fakes import MODEL


async def test_a_model_that_is_only_expected_back_is_not_ready(rest, rpc, predictor):
    """Neither over REST nor over gRPC; and it is ready when it is there."""
    predictor.find = lambda *_: (MODEL, 3)

    async def is_ready():
        async with rest.get("/v2/models/toy/ready") as response:
            over_rest = (response.status, (await response.json())["ready"])
        return over_rest, (await rpc.ModelReady(service_pb2.ModelReadyRequest(name="toy"))).ready

    assert await is_ready() == ((200, True), True)
    predictor.models = {}
    assert await is_ready() == ((503, False), False)
