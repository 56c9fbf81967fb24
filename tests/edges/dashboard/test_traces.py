"""The trace of a job: its page links to where a tracing system shows it, and to nothing else."""

from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import dashboard
from pgqueue.dashboard.traces import Trace, check_trace_url, trace_of
from pgqueue.errors import InvalidOption
from tests.edges.dashboard.conftest import Browser
from tests.edges.dashboard.scene import Shop
from tests.harness import Conn

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{ID}-00f067aa0ba902b7-01"
URL = "https://jaeger.example.com/trace/{trace_id}?uiEmbed=v0"


@pytest.mark.parametrize(
    "parent",
    [
        None, 7, "", "x", ID, PARENT.upper(), f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{ID[:-1]}\u0661-00f067aa0ba902b7-01", PARENT.replace("4bf92f35", '"><img>/'), f" {PARENT}", f"{PARENT}\n",
    ],
)  # fmt: skip
def test_a_header_that_names_no_trace_gives_none(parent: Any) -> None:
    assert trace_of({"traceparent": parent}, URL) is None


def test_a_trace_has_an_id_and_a_url_where_one_is_known() -> None:
    assert trace_of({"traceparent": PARENT}, None) == Trace(ID, None)
    assert trace_of({"traceparent": PARENT}, URL) == Trace(ID, f"https://jaeger.example.com/trace/{ID}?uiEmbed=v0")
    assert trace_of({}, URL) is None


@pytest.mark.parametrize(
    "template",
    [
        "", "jaeger.example.com/{trace_id}", "javascript:alert('{trace_id}')", "data:text/html,{trace_id}",
        "ftp://example.com/{trace_id}", "https://example.com/trace", "https://{trace_id}/", "https:///{trace_id}",
        "https://{trace_id}.example.com/{trace_id}", "https://[/{trace_id}", 7,
        "https://example.com/a b/{trace_id}", " https://example.com/{trace_id}", "https://example.com/{trace_id}\n",
        "https://exa\tmple.com/{trace_id}", "https://example.com/\x00{trace_id}", "https://example.com/\u2028{trace_id}",
        "https://example.com:99999/{trace_id}", "https://example.com:port/{trace_id}", "https://example.com:0/{trace_id}",
    ],
)  # fmt: skip
def test_a_template_that_is_no_url_of_a_trace_is_refused(template: Any) -> None:
    with pytest.raises(InvalidOption, match="trace_url="):
        check_trace_url(template)
    with pytest.raises(InvalidOption, match="trace_url="):
        dashboard.wsgi(None, access=lambda _: None, trace_url=template)  # type: ignore[arg-type]


def test_the_page_of_a_job_links_to_its_trace(browse: Callable[..., Browser], shop: Shop) -> None:
    job = shop.app.using(delay=3600, headers={"traceparent": PARENT}).enqueue("media.transcode", {"video": "a.mov"})
    path = f"jobs/{job.id}"
    assert f'href="https://jaeger.example.com/trace/{ID}?uiEmbed=v0" rel="noreferrer"' in browse(trace_url=URL).page(
        path
    )
    text = browse().page(path)
    assert f"<code>{ID}</code>" in text
    assert "jaeger" not in text
    shop.app.cancel(job.id)


def test_what_is_hidden_of_the_headers_is_hidden_everywhere(
    browse: Callable[..., Browser], shop: Shop, conn: Conn
) -> None:
    job = shop.app.using(delay=3600, headers={"traceparent": PARENT}).enqueue("media.transcode", {"video": "a.mov"})
    fired = """update pgqueue.job_live set headers = (headers::jsonb || '{"schedule": "of the merger", "tick": "now"}')
               where id = %s"""
    conn.execute(fired, [job.id])
    path, texts = f"jobs/{job.id}", ("of the merger", "of~20the~20merger", ID)
    assert all(text in browse(trace_url=URL).page(path) for text in texts)
    hiding = browse(trace_url=URL, redact=lambda job, path, value: "(hidden)" if path[0] == "headers" else value)
    page = hiding.page(path)
    assert "(hidden)" in page
    assert [text for text in texts if text in page] == []
    shop.app.cancel(job.id)
