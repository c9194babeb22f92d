"""The application: routes, and the layers around them.

| layer                 | from the outside in                                        |
|-----------------------|------------------------------------------------------------|
| `RootPath`            | the path under which a proxy shows all this                |
| `AccessLog`           | the request's id, its line in the log                      |
| `MeteringMiddleware`  | what is counted of it                                      |
| `CORSMiddleware`      | which web pages may call; only where origins are named     |
| `ErrorGuard`          | exceptions become answers                                  |
| `AuthMiddleware`      | keys                                                       |
| `LifecycleMiddleware` | draining, and the number of open requests                  |

All are plain ASGI: none stands between a stream and its client, nor hides that the client has gone.
"""

import importlib.metadata
from collections.abc import Callable
from itertools import chain

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from server.http.access_log import AccessLog, write_to_stderr
from server.http.auth import AuthMiddleware, load_keys
from server.http.chat import chat_router
from server.http.completions import completions_router
from server.http.error_guard import ErrorGuard, answer_http_exception
from server.http.lifecycle import LifecycleMiddleware
from server.http.memory import memory_router
from server.http.memory_tokens import memory_tokens_router
from server.http.metering import MeteringMiddleware
from server.http.models import models_router
from server.http.openapi import describe_app
from server.http.packs import packs_router
from server.http.paths import RootPath
from server.http.service import Service
from server.http.status_page import status_page_router
from server.http.tokenize import tokenize_router
from server.http.watching import watching_router


def create_app(service: Service, *, write_log: Callable[[str], None] = write_to_stderr) -> FastAPI:
    """Return the application over a server's parts; `ConfigError` for keys that cannot be read."""
    config = service.config
    api_keys, admin_keys = load_keys(config)
    layers = [
        Middleware(RootPath, root_path=config.root_path),
        Middleware(AccessLog, write=write_log, form=config.log_format),
        Middleware(MeteringMiddleware, metrics=service.metrics),
    ]
    if config.cors_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=config.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "retry-after"],
            )
        )
    layers += [
        Middleware(ErrorGuard),
        Middleware(AuthMiddleware, api_keys=api_keys, admin_keys=admin_keys, config=config),
        Middleware(LifecycleMiddleware, lifecycle=service.lifecycle),
    ]
    app = FastAPI(
        title="Tolbooth",
        version=importlib.metadata.version("tolbooth"),
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        middleware=layers,
        exception_handlers={HTTPException: answer_http_exception},
    )
    makers = (
        completions_router,
        chat_router,
        models_router,
        tokenize_router,
        memory_router,
        packs_router,
        memory_tokens_router,
        watching_router,
        status_page_router,
    )
    routers = [make_router(service) for make_router in makers]
    for router in routers:
        app.include_router(router)
    routes = chain(app.routes, *(router.routes for router in routers))
    service.metrics.routes.declare([route for route in routes if isinstance(route, Route)])
    describe_app(app)
    return app
