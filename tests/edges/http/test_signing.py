"""Signatures: those of the specification's own libraries, and what a receiver refuses."""

import time
from types import SimpleNamespace

import pytest

from pgqueue import InvalidOption, InvalidSignature
from pgqueue.http import new_secret, signing, verify
from pgqueue.http.signing import key_of, sign, signed

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
ID, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}'


def test_a_signature_is_the_one_that_the_libraries_of_the_specification_make() -> None:
    made = sign(key_of(SECRET), ID, "1614265330", BODY)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_accepts_what_was_signed_now_with_one_of_its_secrets() -> None:
    old, new = new_secret(), new_secret()
    headers = {name.title(): value for name, value in signed([key_of(new), key_of(old)], ID, BODY).items()}
    assert verify(BODY, headers, old) == verify(BODY, headers, [new]) == verify(BODY, headers, [SECRET, old]) == ID
    foreign = headers | {"Webhook-Signature": f"v1a,AAAA v2,zz {headers['Webhook-Signature']} v1,"}
    assert verify(BODY, foreign, key_of(old)) == ID


@pytest.mark.parametrize(
    ("changed", "body", "secret", "said"),
    [
        ({}, BODY + b" ", SECRET, "no signature of the request fits"),
        ({}, BODY, OTHER, "no signature of the request fits"),
        ({"webhook-id": "msg_other"}, BODY, SECRET, "no signature of the request fits"),
        ({"webhook-timestamp": str(int(time.time()) - 1)}, BODY, SECRET, "no signature of the request fits"),
        ({"webhook-signature": "v1,é"}, BODY, SECRET, "no signature of the request fits"),
        ({"webhook-signature": ""}, BODY, SECRET, "has no header webhook-signature"),
        ({"webhook-timestamp": "1e9"}, BODY, SECRET, "webhook-timestamp is no number"),
    ],
)
def test_a_receiver_refuses_what_was_altered(changed: dict[str, str], body: bytes, secret: str, said: str) -> None:
    headers = signed([key_of(SECRET)], ID, BODY) | changed
    with pytest.raises(InvalidSignature, match=said):
        verify(body, headers, secret)


@pytest.mark.parametrize(("ago", "said"), [(301, "301 seconds ago"), (-301, "301 seconds ahead")])
def test_a_receiver_refuses_what_was_signed_too_long_ago(ago: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "time", SimpleNamespace(time=lambda: 1_700_000_000.0))
    timestamp = str(1_700_000_000 - ago)
    signature = sign(key_of(SECRET), ID, timestamp, BODY)
    headers = {"webhook-id": ID, "webhook-timestamp": timestamp, "webhook-signature": signature}
    with pytest.raises(InvalidSignature, match=said):
        verify(BODY, headers, SECRET)
    assert verify(BODY, headers, SECRET, tolerance=301) == ID


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "not base64!", b"short", b"x" * 65, "whsec_é", 7])
def test_a_secret_that_cannot_sign_is_refused_and_not_repeated(secret: object) -> None:
    with pytest.raises(InvalidOption, match="new_secret") as raised:
        key_of(secret)
    assert not secret or str(secret) not in str(raised.value).replace("whsec_;", "")
