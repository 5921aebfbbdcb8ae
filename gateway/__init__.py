"""The gateway: images in over REST or gRPC, detections out, Triton behind it."""
