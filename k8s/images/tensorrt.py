"""Lets `import tensorrt` find its bindings, which come alone: the libraries are those of Triton's image."""

import sys

import tensorrt_bindings

sys.modules[__name__] = tensorrt_bindings
