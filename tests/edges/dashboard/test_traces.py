"""The trace of a job: its page links to where a tracing system shows it, and to nothing else."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import dashboard
from pgqueue.dashboard import Access
from pgqueue.dashboard.traces import Trace, check_trace_url, trace_of
from pgqueue.errors import InvalidOption
from tests.conftest import scalar
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


def test_the_page_of_a_job_lists_what_its_task_enqueued(browse: Callable[..., Browser], shop: Shop, conn: Conn) -> None:
    by = shop.ids["charged"]
    made = [
        scalar(
            conn,
            "insert into pgqueue.job_live (task, queue, state, waits_for, headers)"
            " values ('shop.checked', %s, 'blocked', 'task', jsonb_build_object('$by', %s::bigint)) returning id",
            "critical" if number < 3 else "email",
            by,
        )
        for number in range(25)
    ]
    try:
        browser = browse()
        first = browser.page(f"jobs/{by}")
        assert _listed(first) == made[:20]
        (link,) = re.findall(r'rel="next" href="\.\./jobs/(\d+\?after=\d+)#enqueued"', first)
        assert _listed(browser.page(f"jobs/{link}")) == made[20:]
        assert "More of what it enqueued" not in browser.page(f"jobs/{link}")
        assert browser.get(f"jobs/{by}?after=x").status_code == 400
        child = browser.page(f"jobs/{made[0]}")
        assert re.search(
            rf'enqueued by</dt><dd><a class="id" href="\.\./jobs/{by}">{by}</a> <span class="name">', child
        )
        assert "$by" not in child
        within = browse(Access.operate("bob", queues={"critical"}))
        text = within.page(f"jobs/{by}")
        assert _listed(text) == made[:3]
        assert "And 17 in other queues." in text
        assert "enqueued by" not in browse(Access.operate("bob", queues={"email"})).page(f"jobs/{made[-1]}")
    finally:
        conn.execute("delete from pgqueue.job_live where id = any(%s)", [made])


def _listed(page: str) -> list[int]:
    part = (
        page.partition('id="enqueued"')[2].partition("</section>")[0].partition("<tbody>")[2].partition("</tbody>")[0]
    )
    return [int(job) for job in re.findall(r'class="id" href="\.\./jobs/(\d+)"', part)]
