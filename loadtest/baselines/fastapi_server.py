"""Plain FastAPI: the model in the process, one image a run, a thread of its pool for each request.

uvicorn loadtest.baselines.fastapi_server:app
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import cv2
import numpy as np
from fastapi import Body, FastAPI, HTTPException

from loadtest.baselines.gpu import LABELS, STANDIN, detect

SCORE: Final = 0.4
IOU: Final = 0.7

app = FastAPI()


@app.get("/healthz")
def healthz() -> str:
    """Whether the server lives."""
    return "ok"


@app.post("/v1/detect")
def find(data: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
    """The objects in one image."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise HTTPException(400, "not an image")
    height, width = image.shape[:2]
    tensor: Any = cv2.cvtColor(cv2.resize(image, (STANDIN.size, STANDIN.size)), cv2.COLOR_BGR2RGB)
    boxes, scores, class_ids = (array[0] for array in detect(tensor[np.newaxis]))
    xywh: Any = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(xywh, scores, class_ids, SCORE, IOU)
    scale = np.array([width, height, width, height], np.float32) / STANDIN.size
    found = [
        {
            "label": LABELS[class_ids[i]],
            "class_id": int(class_ids[i]),
            "score": float(scores[i]),
            "box": dict(zip(("x1", "y1", "x2", "y2"), (boxes[i] * scale).tolist(), strict=True)),
        }
        for i in kept
    ]
    return {"image": {"width": width, "height": height}, "detections": found}
