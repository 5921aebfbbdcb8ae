"""The gateway: images in over REST, detections out, Triton behind it."""
