"""The admin port of several workers: each answer is made of theirs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.lifecycle import SHUTTING_DOWN, Lifecycle, Readiness
from gateway.metrics import Metrics
from gateway.observer import Observer
from gateway.rest.app import operators_application
from gateway.rest.face import json_response
from gateway.rest.probes import alive, exposition, ready
from gateway.workers import merge
from gateway.workers.channel import METRICS, READINESS, SHADOW, TRITONS

if TYPE_CHECKING:
    from collections.abc import Hashable

    from prometheus_client import Metric

    from gateway.workers.supervisor import Crew, Process


def application(crew: Crew) -> web.Application:
    """The same routes as a single process has on its admin port."""
    totals = merge.Totals()
    scraping = asyncio.Lock()  # an older answer that comes later would make counts fall
    crew.on_end = totals.end

    async def healthz(_: web.Request) -> web.Response:
        stuck = [_silent(process) for process, answer in (await crew.ask(READINESS)).items() if answer is None]
        return alive(stuck[0] if stuck else None)

    async def readyz(_: web.Request) -> web.Response:
        if crew.is_stopping:
            return ready(SHUTTING_DOWN)
        answers = await crew.ask(READINESS)
        # one that is stuck gets its part of the connections all the same
        return ready(merge.readiness([answer or Readiness(_silent(process)) for process, answer in answers.items()]))

    async def metrics(_: web.Request) -> web.Response:
        async with scraping:
            answers = await crew.ask(METRICS)
            told: dict[Hashable, list[Metric]] = {crew: list(crew.registry.collect())}
            told |= {process: answer for process, answer in answers.items() if answer is not None}
            return exposition(merge.Families(totals.merged(told)))

    async def tritons(_: web.Request) -> web.Response:
        answers = await crew.ask(TRITONS)
        return json_response(merge.tritons([answer for answer in answers.values() if answer is not None]))

    async def shadow(_: web.Request) -> web.Response:
        answers = await crew.ask(SHADOW)
        return json_response(merge.shadow(answer for answer in answers.values() if answer is not None))

    routes = [
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/metrics", metrics),
        web.get("/v1/triton", tritons),
        web.get("/v1/shadow", shadow),
    ]
    lifecycle = Lifecycle(lambda: bool(crew.serving))
    return operators_application(routes, Observer(Metrics(), "rest"), lifecycle)


def _silent(process: Process) -> str:
    return f"worker {process.number} does not answer"
