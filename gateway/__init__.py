"""The gateway: images in over REST or gRPC, detections out, Triton behind it."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines are no JSON, and callers could cause them
