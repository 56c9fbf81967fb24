"""In Django: a call is in the transaction of `django.db.connection`, and on_commit still works."""

import pytest
from django.db import connection, transaction

from pgqueue.celery import Celery, chain
from tests.conftest import scalar
from tests.django_site import django_on
from tests.harness import Conn

COUNT = "select count(*) from pgqueue.job"


def test_a_call_commits_or_rolls_back_with_the_block(celery: Celery, dsn: str, conn: Conn) -> None:
    celery.bind(lambda: connection)

    @celery.task
    def mail(to: str) -> None: ...

    def sign_up(broken: bool) -> None:
        with transaction.atomic():
            mail.delay("ann")
            chain(mail.s("bob"), mail.si("eve")).apply_async()
            assert scalar(conn, COUNT) == before
            if broken:
                raise ValueError

    with django_on(dsn):
        before = 0
        with pytest.raises(ValueError):  # noqa: PT011
            sign_up(broken=True)
        assert scalar(conn, COUNT) == 0
        sign_up(broken=False)
        assert scalar(conn, COUNT) == 3
        mail.delay("outside")
        assert scalar(conn, COUNT) == 4
        with transaction.atomic():
            transaction.on_commit(lambda: mail.delay("after") and None)
            assert scalar(conn, COUNT) == 4
        assert scalar(conn, COUNT) == 5
        with pytest.raises(ValueError), transaction.atomic():  # noqa: PT011, PT012
            mail.apply_async(("stays",), transactional=False)
            raise ValueError
        assert scalar(conn, COUNT) == 6
