"""Answers as a gateway gives them, on both faces: two boards with one pin-hole, less what a test changes."""

import json
import struct

import numpy as np
from tritonclient.grpc import service_pb2

from eagleeye.client.rest import HttpResponse

BOX = (153.4022, 568.9319, 220.95915, 606.5276)
SCORE = 0.72484756


def detection(**changes):
    box = dict(zip(("x1", "y1", "x2", "y2"), BOX, strict=True))
    return {"label": "pin-hole", "class_id": 5, "score": SCORE, "box": box, **changes}


def answer(*detections, **changes):
    """A JSON answer about one image, as Python has it."""
    return {
        "model": {"name": "deeppcb", "version": "3"},
        "image": {"width": 640, "height": 480},
        "detections": list(detections),
        "timing_ms": {},
        "request_id": "r",
        **changes,
    }


def http(content, status=200, **headers):
    """A response; what is no bytes is written as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HttpResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def problem(code, **changes):
    """A problem document."""
    return {"type": "about:blank", "title": "T", "code": code, "detail": "what is wrong", "request_id": "r", **changes}


def infer_response(request_id="", **changes):
    """A ModelInferResponse about one image with one detection; `changes` replace tensors, as (datatype, array)."""
    tensors = {
        "num_detections": ("INT32", np.array([1], np.int32)),
        "boxes": ("FP32", np.array([BOX], np.float32)),
        "scores": ("FP32", np.array([SCORE], np.float32)),
        "class_ids": ("INT32", np.array([5], np.int32)),
        "labels": ("BYTES", np.array(["pin-hole"], object)),
        "image_wh": ("INT32", np.array([[640, 480]], np.int32)),
        **changes,
    }
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    message = service_pb2.ModelInferResponse(model_name="deeppcb", model_version="3", id=request_id)
    for name, (datatype, array) in tensors.items():
        message.outputs.add(name=name, datatype=datatype, shape=array.shape)
        message.raw_output_contents.append(to_raw(array))
    return message


def to_raw(array):
    if array.dtype != object:
        return array.tobytes()
    texts = [text.encode() for text in array]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def stream_response(request_id, **changes):
    """The answer to a frame."""
    return service_pb2.ModelStreamInferResponse(infer_response=infer_response(request_id, **changes))


def stream_error(request_id, code, text="what is wrong", retry_after=None):
    """The answer to a frame that failed."""
    infer = service_pb2.ModelInferResponse(id=request_id)
    infer.parameters["code"].string_param = code
    infer.parameters["request_id"].string_param = "r"
    if retry_after is not None:
        infer.parameters["retry_after"].int64_param = retry_after
    return service_pb2.ModelStreamInferResponse(error_message=text, infer_response=infer)
