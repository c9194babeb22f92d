"""The status page at `/`: one file, served with a policy that lets it load nothing from elsewhere.

The page itself holds no figures: its script asks this server for them, with a key where one is needed.
"""

import hashlib
import re
from base64 import b64encode
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from server.http.paths import STATUS_PAGE
from server.http.service import Service

_FILE = Path(__file__).with_name("status_page.html")


def status_page_router(service: Service) -> APIRouter:
    """Return the route; none where the page is switched off."""
    router = APIRouter()
    if not service.config.status_page:
        return router
    page = _FILE.read_text(encoding="utf-8")
    headers = {
        "content-security-policy": content_policy(page),
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }

    @router.get(STATUS_PAGE, include_in_schema=False)
    async def status_page() -> Response:
        return Response(page, headers=headers, media_type="text/html; charset=utf-8")

    return router


def content_policy(page: str) -> str:
    """Return a policy by which a browser runs the page's own script and style, and nothing else."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_digest(page, 'script')}",
            f"style-src {_digest(page, 'style')}",
            "connect-src 'self'",
            "img-src data:",  # its icon
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _digest(page: str, element: str) -> str:
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", page, flags=re.DOTALL)
    return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
