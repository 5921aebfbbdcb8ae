"""What one gets without this project: servers as honest as they can be, to be measured beside it.

All of them have the same stand-in for a GPU: those with a Triton in that, the others in a process of their own
(`gpu.py`). But for Triton alone, they answer `POST /v1/detect` with an image's bytes as ours does. One is no
alternative but a yardstick: `bare_hop_server.py` tells the cost of the hop to Triton from that of our features. The
packages of most are in the extra `baselines`; BentoML and the Python models of Triton's ensemble have an environment
each, which `make bench` makes of the pins beside them.
"""
