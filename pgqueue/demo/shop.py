"""The shop: orders, and the jobs that commit with them. An ordinary pgqueue app, as users write them."""

import hashlib
import hmac
import json
import os
import urllib.request
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import class_row

import pgqueue

app = pgqueue.App()

TABLES = """
create schema shop;
create table shop.orders (
    number integer primary key, customer text not null, email text not null, sku text not null,
    description text not null, quantity integer not null check (quantity > 0), unit_cents integer not null,
    currency text not null, placed_at timestamptz not null default now());
create table shop.sales (tick timestamptz primary key, orders integer not null, units integer not null);
"""
CURRENCIES = {"EUR": "€", "USD": "$", "GBP": "£"}
SECRET = b"demo-webhook-secret"


@dataclass(frozen=True, slots=True)
class Order:
    """A row of shop.orders, and a line of orders.csv."""

    number: int
    customer: str
    email: str
    sku: str
    description: str
    quantity: int
    unit_cents: int
    currency: str


class PaymentDeclined(Exception):
    """The customer's card was refused: the order is rolled back, and its jobs with it."""


def place_order(conn: psycopg.Connection[Any], order: Order, card: str) -> None:
    """Write an order and enqueue its jobs, in one transaction: all of that commits, or nothing."""
    with conn.transaction():
        conn.execute(
            "insert into shop.orders (number, customer, email, sku, description, quantity, unit_cents, currency)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s)",
            [getattr(order, name) for name in Order.__slots__],
        )
        deliver_webhook.using(conn, tags=["webhook"]).enqueue(order_number=order.number)
        render_invoice.using(conn).enqueue(order_number=order.number)
        if card == "declined":
            raise PaymentDeclined(order.number)


@app.task(
    name="shop.deliver_webhook", queue="critical", retry=pgqueue.Exponential(base=0.2, factor=2, max=5), max_attempts=10
)
def deliver_webhook(context: pgqueue.Context, order_number: int) -> dict[str, int]:
    """Tell the warehouse about an order: a signed POST. A 503 raises, and the job is tried again."""
    order = load_order(order_number)
    body = json.dumps({"event": "order.placed", "order": order.number, "sku": order.sku, "quantity": order.quantity})
    request = urllib.request.Request(  # noqa: S310 - the demo's own receiver on the loopback address
        os.environ["SHOP_WEBHOOK_URL"],
        data=body.encode(),
        headers={
            "Content-Type": "application/json",
            # The same on every attempt, so that the receiver can tell a repetition from a second order.
            "Idempotency-Key": context.idempotency_key,
            "Signature": hmac.new(SECRET, body.encode(), hashlib.sha256).hexdigest(),
        },
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        return {"status": response.status}


@app.task(name="shop.render_invoice", queue="default", retry=[0.2, 0.4])
def render_invoice(order_number: int) -> dict[str, str]:
    """Write an order's invoice as an HTML file. Written whole or not at all, so that a second run does no harm."""
    order = load_order(order_number)
    symbol = CURRENCIES[order.currency]  # unknown currencies raise KeyError: such a job becomes a dead letter
    total = Decimal(order.quantity * order.unit_cents) / 100
    page = (
        f"<!doctype html><meta charset=utf-8><title>Invoice {order.number}</title>"
        f"<h1>Invoice {order.number}</h1><p>{escape(order.customer)} &lt;{escape(order.email)}&gt;"
        f"<table><tr><td>{order.quantity} x {escape(order.description)}<td>{symbol} {total}</table>\n"
    )
    path = Path(os.environ["SHOP_INVOICES"]) / f"{order.number}.html"
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(page, encoding="utf-8")
    draft.replace(path)
    return {"file": path.name}


@app.schedule(2, name="sales every two seconds")
@app.task(name="shop.count_sales", queue="default")
async def count_sales(context: pgqueue.Context) -> None:
    """Record the sales up to the tick of this job."""
    async with await psycopg.AsyncConnection.connect(app.dsn) as conn:
        await conn.execute(
            "insert into shop.sales (tick, orders, units)"
            " select %s, count(*), coalesce(sum(quantity), 0) from shop.orders on conflict (tick) do nothing",
            [context.headers["tick"]],
        )


def load_order(number: int) -> Order:
    """Read an order."""
    with psycopg.connect(app.dsn, row_factory=class_row(Order)) as conn:
        order = conn.execute(
            "select number, customer, email, sku, description, quantity, unit_cents, currency"
            " from shop.orders where number = %s",
            [number],
        ).fetchone()
    if order is None:
        raise pgqueue.Fail(f"order {number} does not exist")  # cannot happen: the job commits with the order
    return order
