"""EagleEye: the command line and the Python client."""
