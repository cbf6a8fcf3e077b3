"""`/docs` needs nothing from anywhere and lets nothing in; `/v1/version` says who answers."""

import base64
import re
from hashlib import sha256

from app.bootstrap import VERSION
from app.surfaces.reference.page import PAGE, SCRIPT, STYLE


def test_the_page_is_for_anybody_and_whole(service):
    with service.client(key="") as client:
        answer = client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.text == PAGE
    # No address of any other place, and nothing that is fetched but the document itself.
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<img|<iframe|\bsrc=|import\(", PAGE)
    assert re.findall(r"fetch\(([^,]+),", PAGE) == ["'openapi.json'"]
    # Nothing that the document says is ever read as markup, and the credential is kept nowhere.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|Storage|cookie", PAGE)


def test_only_its_own_script_runs(service):
    with service.client(key="") as client:
        policy = client.get("/docs").headers["content-security-policy"]
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == parts["base-uri"] == parts["form-action"] == parts["frame-ancestors"] == "'none'"
    assert parts["connect-src"] == "'self'"
    for directive, text, tag in (("script-src", SCRIPT, "script"), ("style-src", STYLE, "style")):
        digest = base64.b64encode(sha256(text.encode()).digest()).decode()
        assert parts[directive] == f"'sha256-{digest}'"
        assert re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL) == [text]
    assert not re.search(r"\son[a-z]+=|\sstyle=|javascript:", PAGE)


def test_version(service):
    with service.client(key="") as client:
        assert client.get("/v1/version").status_code == 401
    with service.client() as client:
        assert client.get("/v1/version").json() == {"version": VERSION, "api": ["v1"]}
        # The path stands under a proxy's prefix as well.
        assert client.get("/openapi.json").json()["info"]["version"] == VERSION
