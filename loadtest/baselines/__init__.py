"""What one gets without this project: servers of one file, as honest as they can be, to be measured beside it.

All of them answer `POST /v1/detect` with an image's bytes as ours does, and have the same stand-in for a GPU in their
own process (`gpu.py`). Their packages are in the extra `baselines`.
"""
