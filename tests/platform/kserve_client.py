"""What the KServe SDK's client sees of a gateway, as JSON on standard output.

Runs in an environment of its own, which `make test` sets up: the SDK brings a web server, a Kubernetes client, pandas.
"""

import asyncio
import base64
import itertools
import json
import sys
from pathlib import Path

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.rest.v2_datamodels import ListModelsResponse, ModelMetadataResponse, ServerMetadataResponse


async def look(url, model, image):
    """Everything that the client can ask; what it has no call for is read with the SDK's own data models."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client, httpx.AsyncClient(base_url=url) as http:
        return {
            "ready": {
                "server": [await client.is_server_live(url), await client.is_server_ready(url)],
                "model": await client.is_model_ready(url, model),
                "unknown": await client.is_model_ready(url, "other"),
            },
            "models": (await get(http, "/v2/models", ListModelsResponse))["models"],
            "server": await get(http, "/v2", ServerMetadataResponse),
            "model": await get(http, f"/v2/models/{model}", ModelMetadataResponse),
            "found": [
                await infer(client, url, model, image, *forms) for forms in itertools.product((False, True), repeat=2)
            ],
            "refused": await refusal(client, url, model),
        }


async def get(http, path, data_model):
    """An answer, as the SDK checks it."""
    return data_model.model_validate((await http.get(path)).json()).model_dump()


async def infer(client, url, model, image, has_binary_inputs, has_binary_outputs):
    """Labels, class ids, scores and boxes."""
    tensor = InferInput("image", [1], "BYTES")
    element = image if has_binary_inputs else base64.b64encode(image)
    tensor.set_data_from_numpy(np.array([element], object), binary_data=has_binary_inputs)
    parameters = {"binary_data_output": has_binary_outputs}
    result = await client.infer(url, InferRequest(model, [tensor], parameters=parameters), model_name=model)
    outputs = {output.name: output for output in result.outputs}
    assert outputs["boxes"].as_numpy().dtype == np.float32
    labels = [label if isinstance(label, str) else label.decode() for label in outputs["labels"].as_numpy()]
    return labels, *(outputs[name].as_numpy().tolist() for name in ("class_ids", "scores", "boxes"))


async def refusal(client, url, model):
    """The status of a request with something that is no image."""
    tensor = InferInput("image", [1], "BYTES", data=[base64.b64encode(b"hello").decode()])
    try:
        await client.infer(url, InferRequest(model, [tensor]), model_name=model)
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return None


if __name__ == "__main__":
    _, url, model, path = sys.argv
    sys.stdout.write(json.dumps(asyncio.run(look(url, model, Path(path).read_bytes()))))
