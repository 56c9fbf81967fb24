"""The router of pgqueue.web, mounted in two frameworks."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from pgqueue import App, web
from tests.edges.web.clients import everybody


@pytest.fixture(params=["starlette", "fastapi"])
def api(request: pytest.FixtureRequest, app: App) -> Any:
    """The router in both frameworks, with an endpoint that starts a job."""

    async def start(request: Request) -> JSONResponse:
        return web.accepted(request, await app.aenqueue("t", {"secret": "password"}))

    routes = web.router(app, authorize=everybody)
    if request.param == "starlette":
        return Starlette(routes=[Mount("/api/jobs", routes), Route("/start", start, methods=["POST"])])
    api = FastAPI()
    api.mount("/api/jobs", routes)
    api.add_route("/start", start, methods=["POST"])
    return api
