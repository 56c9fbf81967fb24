"""The dashboard behind a real nginx, which takes a part of the path away: links, files, forms and events pass it."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from tests.conftest import scalar
from tests.edges.dashboard.conftest import HOST, SAME_SITE, dashboard_token
from tests.edges.dashboard.paths import pages_of
from tests.edges.dashboard.scene import Shop
from tests.edges.dashboard.served import served
from tests.harness import Conn, wait_for

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx is installed: apt-get install nginx")

PREFIX = "/a/b/jobs/"
# What docs/dashboard.md says of nginx, and where this one keeps its files.
CONFIG = """
daemon off; {user} pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen unix:{folder}/socket;
        location {prefix} {{
            proxy_pass {site};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}"""


@contextmanager
def nginx(folder: Path, site: str) -> Iterator[Path]:
    """Run nginx in front of a site; yield the socket at which it answers. A port might be taken by somebody else."""
    assert NGINX is not None
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, prefix=PREFIX, site=site, user=user))
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.PIPE)
    try:
        wait_for(lambda: process.poll() is not None or answers(folder / "socket"), "nginx")
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield folder / "socket"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def answers(path: Path) -> bool:
    """Whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX) as knock:
        return knock.connect_ex(str(path)) == 0


@pytest.fixture(scope="module")
def at(shop: Shop) -> Iterator[Path]:
    with served(shop) as site, TemporaryDirectory() as folder, nginx(Path(folder), site) as path:
        yield path


@pytest.fixture
def browser(at: Path) -> Iterator[httpx.Client]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(at)), base_url=HOST, timeout=30) as client:
        yield client


def test_every_link_and_file_stays_below_the_prefix(browser: httpx.Client, shop: Shop) -> None:
    linked = set[str]()
    for path in pages_of(shop):
        answer = browser.get(PREFIX + path)
        assert answer.status_code == 200, (path, answer.text[-300:])
        for link in re.findall(r'(?:href|src|action)="([^"#]+)"', answer.text):
            where = urlsplit(urljoin(f"{HOST}{PREFIX}{path}", unescape(link)))
            assert where.path.startswith(PREFIX), (path, link)
            if "-/static/" in where.path:
                linked.add(f"{where.path}?{where.query}")
    assert len(linked) == 3
    for path in linked:
        answer = browser.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]


def test_without_the_last_slash_nginx_sends_to_the_first_page(browser: httpx.Client) -> None:
    answer = browser.get(PREFIX.rstrip("/"))
    assert answer.status_code == 301
    assert urlsplit(answer.headers["location"]).path == PREFIX


def test_forms_pass_it_and_those_of_other_sites_do_not(browser: httpx.Client, conn: Conn) -> None:
    browser.get(f"{PREFIX}queues")
    form = {"form_token": dashboard_token(browser.cookies["pgqueue-form"]), "why": "nginx"}
    paused = "select paused_reason from pgqueue.queue where name = 'email' and paused_at is not null"
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert browser.post(f"{PREFIX}queues/email/pause", data=form, headers=headers).status_code == 403
    for headers in (SAME_SITE, {"Origin": HOST}):  # a browser that is older says where it comes from
        answer = browser.post(f"{PREFIX}queues/email/pause", data=form, headers=headers)
        assert answer.status_code == 303
        assert urljoin(f"{PREFIX}queues/email/pause", answer.headers["location"]).startswith(f"{PREFIX}queues/email?")
        assert scalar(conn, paused) == "nginx"
        browser.post(f"{PREFIX}queues/email/resume", data=form, headers=headers)


def test_events_pass_it_while_the_page_is_open(browser: httpx.Client) -> None:
    with browser.stream("GET", f"{PREFIX}-/events") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: versions"
        assert next(line for line in lines if line.startswith("data:")).startswith('data: {"queues": ')
