from datetime import date, timedelta

from celery import chord, shared_task

from library.mails.tasks import send_mail

SHELVES = {"poetry": [3, 1, 2], "history": [5, 8]}


@shared_task
def remind(days):
    return f"reminders of {days} days"


@shared_task
def count_shelf(name):
    return len(SHELVES[name])


@shared_task(bind=True)
def write_report(self, counts, on):
    assert isinstance(on, date)
    return {
        "books": sum(counts),
        "next": (on + timedelta(days=7)).isoformat(),
        "by": self.request.delivery_info["routing_key"],
    }


@shared_task
def inventory():
    header = [count_shelf.s(name) for name in SHELVES]
    chord(header, write_report.s(on=date(2026, 5, 2))).apply_async()


def borrow(conn, reader, book):
    """Lend a book: the row and the mail belong together."""
    with conn.transaction():
        conn.execute("insert into public.loan (reader, book) values (%s, %s)", (reader, book))
        send_mail.delay(reader, subject=f"You have borrowed {book}")
        if book == "the catalogue":
            raise PermissionError("it stays here")
