"""What one gets without this project: servers as honest as they can be, to be measured beside it.

All of them have the same stand-in for a GPU and, but for Triton alone, have it in a process of their own (`gpu.py`) and
answer `POST /v1/detect` with an image's bytes as ours does. The packages of most are in the extra `baselines`; BentoML
and the Python models of Triton's ensemble have an environment each, which `make bench` makes of the pins beside them.
"""
