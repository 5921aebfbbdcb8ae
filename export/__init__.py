"""From an official DAMO-YOLO checkpoint to a verified model in a Triton repository."""
