"""Each sender against a real server on loopback: a web hook, a mail server, a file."""

from __future__ import annotations

import datetime as dt
import email
import email.policy
import hashlib
import hmac
import json
import multiprocessing
import re
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as rounds
from hypothesis import strategies as st
from pydantic import SecretStr

from marquee.errors import SettingsError
from marquee.notifications import PlannedNotification
from marquee.settings import Settings
from serving.notifications.messages import Message, Messages, open_messages
from serving.notifications.senders import FileSender, Refused, Sender, SendError, WebhookSender, open_senders
from serving.notifications.smtp import AddressBook, MailServer, SmtpSender

pytestmark = pytest.mark.tools
NOON = datetime(2026, 2, 3, 12)
PLANNED = PlannedNotification(
    notification_id="9f0c2b7d41f2a6d8e3b05c1177aa02c4",
    visitor_id="v000123",
    segment="at_risk",
    notification_type="win_back_offer",
    channel="email",
    content_id="b017",
    due_at=NOON,
    hour_bucket=4,
    propensity=0.25,
    policy="rds-4",
    planned_at=NOON - timedelta(hours=9),
    expires_at=NOON + timedelta(hours=6),
)
KEY = PLANNED.notification_id
PLAIN = Messages({})
SECRET = "a secret that nobody may read"


# --- web hook ---------------------------------------------------------------------------------------------------------


class Hook(HTTPServer):
    """Answers with the statuses it is told, in turn; a negative one is an answer that never comes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HookHandler)
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.taken: dict[str, bytes] = {}
        """As a receiver that keeps keys has it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?token={SECRET.replace(' ', '-')}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _HookHandler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.server.taken.setdefault(self.headers["idempotency-key"], body)
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        if status < 0:
            time.sleep(-status / 10)
            status = 204
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def webhook(hook: Hook, secret: str | None = SECRET) -> WebhookSender:
    return WebhookSender(hook.url, secret, PLAIN, timeout=0.3, clock=lambda: 1_770_120_000.9)


def test_a_web_hook_gets_the_plan_the_key_and_what_to_say(hook: Hook) -> None:
    webhook(hook).send(PLANNED, KEY)
    ((headers, body),) = hook.came
    assert headers["idempotency-key"] == KEY
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {
        "notification_id": KEY,
        "visitor_id": "v000123",
        "segment": "at_risk",
        "notification_type": "win_back_offer",
        "channel": "email",
        "content_id": "b017",
        "due_at": "2026-02-03T12:00:00Z",
        "hour_bucket": 4,
        "propensity": 0.25,
        "policy": "rds-4",
        "planned_at": "2026-02-03T03:00:00Z",
        "expires_at": "2026-02-03T18:00:00Z",
        "key": KEY,
        "subject": "Win back offer",
        "text": "Win back offer",
    }


def test_its_body_is_signed_so_that_a_receiver_can_tell(hook: Hook) -> None:
    webhook(hook).send(PLANNED, KEY)
    webhook(hook, secret=None).send(PLANNED, KEY)
    (headers, body), (bare, _) = hook.came
    told = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers["marquee-signature"])
    assert told is not None
    assert told[1] == "1770120000"
    assert told[2] == hmac.new(SECRET.encode(), b"1770120000." + body, hashlib.sha256).hexdigest()
    assert told[2] != hmac.new(b"another", b"1770120000." + body, hashlib.sha256).hexdigest()
    assert "marquee-signature" not in bare


@pytest.mark.parametrize(
    ("status", "is_final"),
    [
        *((status, False) for status in (408, 409, 425, 429, 500, 502, 503)),
        *((s, True) for s in (302, 400, 401, 404, 410, 422)),
    ],
)
def test_statuses_say_whether_to_try_again(hook: Hook, status: int, is_final: bool) -> None:
    hook.statuses = [status]
    with pytest.raises(SendError, match=f"the web hook answered {status}") as told:
        webhook(hook).send(PLANNED, KEY)
    assert isinstance(told.value, Refused) is is_final


@pytest.mark.parametrize(("header", "wait"), [("7", 7.0), ("999999", 3_600.0), ("Tue, 03 Feb 2026 12:00:00 GMT", None)])
def test_a_receiver_says_when_to_come_again(hook: Hook, header: str, wait: float | None) -> None:
    hook.statuses, hook.headers = [503], {"retry-after": header}
    with pytest.raises(SendError) as told:
        webhook(hook).send(PLANNED, KEY)
    assert told.value.after == wait


def test_an_answer_that_is_lost_is_a_second_request_of_the_same_key_and_body(hook: Hook) -> None:
    hook.statuses = [-6]
    sender = webhook(hook)
    began = time.monotonic()
    with pytest.raises(SendError, match="gave no answer: ReadTimeout"):
        sender.send(PLANNED, KEY)
    assert time.monotonic() - began < 0.55
    time.sleep(0.4)
    sender.send(PLANNED, KEY)
    assert [body for _, body in hook.came] == [hook.taken[KEY]] * 2
    assert list(hook.taken) == [KEY]


def test_what_it_raises_tells_no_secret() -> None:
    sender = WebhookSender(f"http://127.0.0.1:9/{SECRET}", SECRET, PLAIN, timeout=0.3)
    with pytest.raises(SendError) as told:
        sender.send(PLANNED, KEY)
    assert str(told.value) == "the web hook gave no answer: ConnectError"
    assert told.value.__suppress_context__


# --- mail -------------------------------------------------------------------------------------------------------------


class Submission(socketserver.ThreadingTCPServer):
    """As much of RFC 5321 as a submission needs. ``refused`` answers by command; TLS from the first byte if wanted."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _MailHandler)
        self.context = context
        self.refused: dict[str, str] = {}
        self.said: list[str] = []
        self.mails: list[tuple[str, list[str], EmailMessage]] = []

    def get_request(self) -> Any:
        connection, address = super().get_request()
        return (self.context.wrap_socket(connection, server_side=True) if self.context else connection), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _MailHandler(socketserver.StreamRequestHandler):
    server: Submission

    def handle(self) -> None:
        sender, receivers = "", []
        self._say("220 mail.test ESMTP")
        while line := self.rfile.readline().decode().rstrip("\r\n"):
            self.server.said.append(line)
            verb = line.split(" ")[0].upper()
            if told := self.server.refused.get(verb):
                self._say(told)
                continue
            if verb == "EHLO":
                self._say("250-mail.test\r\n250 AUTH PLAIN")
            elif verb == "AUTH":
                self._say("235 welcome")
            elif verb == "MAIL":
                sender = re.findall("<(.*?)>", line)[0]
                self._say("250 ok")
            elif verb == "RCPT":
                receivers.append(re.findall("<(.*?)>", line)[0])
                self._say("250 ok")
            elif verb == "DATA":
                self._say("354 go on")
                text = b""
                while not text.endswith(b"\r\n.\r\n"):
                    text += self.rfile.readline()
                message = email.message_from_bytes(text[:-3], policy=email.policy.default)
                assert isinstance(message, EmailMessage)
                self.server.mails.append((sender, receivers, message))
                self._say(self.server.refused.get("END", "250 taken"))
            elif verb == "QUIT":
                self._say("221 goodbye")
                return
            else:
                self._say("250 ok")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@pytest.fixture
def mail() -> Iterator[Submission]:
    yield from _running(Submission())


def _running(server: Submission) -> Iterator[Submission]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def mailer(server: Submission, messages: Messages = PLAIN, **more: Any) -> SmtpSender:
    where = MailServer("127.0.0.1", server.port, is_tls=server.context is not None, **more)
    addresses = {"v000123": "ann@example.org", "odd": "ann@example.org\nBcc: eve@example.org"}
    return SmtpSender(where, "Shop <news@shop.example>", addresses.get, messages, timeout=1.0)


def test_a_mail_goes_to_the_visitor_with_an_id_that_follows_from_the_key(mail: Submission) -> None:
    messages = Messages({"win_back_offer": Message("Böö:\n come back", "Look at $content_id, $visitor_id; 5 $$ off.")})
    sender = mailer(mail, messages, user="ann", password=SECRET)
    sender.send(PLANNED, KEY)
    sender.send(PLANNED, KEY)
    for sent_from, receivers, message in mail.mails:
        assert (sent_from, receivers) == ("news@shop.example", ["ann@example.org"])
        assert message["Message-ID"] == f"<{KEY}@shop.example>"
        assert message["X-Marquee-Notification"] == KEY
        assert message["Subject"] == "Böö: come back"
        assert message.get_content().strip() == "Look at b017, v000123; 5 $ off."
    assert len(mail.mails) == 2, "a mail server keeps no keys: what reads the mail may, by its Message-ID"
    assert any(line.startswith("AUTH PLAIN") for line in mail.said)


def test_a_visitor_without_an_address_is_refused(mail: Submission) -> None:
    with pytest.raises(Refused, match="no address is known of this visitor"):
        mailer(mail).send(replace(PLANNED, visitor_id="v9"), KEY)
    with pytest.raises(Refused, match="the visitor's address is none") as told:
        mailer(mail).send(replace(PLANNED, visitor_id="odd"), KEY)
    assert "example.org" not in str(told.value)
    assert mail.mails == []


@pytest.mark.parametrize(
    ("verb", "answer", "is_final"),
    [
        ("RCPT", "550 no such user ann@example.org", True),
        ("RCPT", "450 busy", False),
        ("MAIL", "552 no", True),
        ("MAIL", "421 later", False),
        ("END", "554 spam", True),
        ("END", "451 later", False),
        ("AUTH", "535 wrong password", False),
        ("EHLO", "421 going down", False),
    ],
)
def test_what_the_mail_server_says_decides(mail: Submission, verb: str, answer: str, is_final: bool) -> None:
    mail.refused = {verb: answer}
    if verb == "EHLO":
        mail.refused["HELO"] = answer
    with pytest.raises(SendError) as told:
        mailer(mail, user="ann", password=SECRET).send(PLANNED, KEY)
    assert isinstance(told.value, Refused) is is_final
    assert answer[:3] in str(told.value)
    assert not any(word in str(told.value) for word in ("ann", SECRET, "example.org", "password"))


def test_what_it_says_to_our_goodbye_changes_nothing(mail: Submission) -> None:
    mail.refused = {"QUIT": "421 whatever"}
    mailer(mail).send(PLANNED, KEY)
    assert len(mail.mails) == 1


def test_a_mail_server_that_is_not_there_may_come_back() -> None:
    sender = SmtpSender(MailServer("127.0.0.1", 9, False), "news@shop.example", lambda _: "a@b.example", PLAIN, 0.3)
    with pytest.raises(SendError, match="the mail server cannot be used: ConnectionRefusedError"):
        sender.send(PLANNED, KEY)


def test_a_certificate_that_nobody_vouches_for_gets_no_password(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(tmp_path))
    running = _running(Submission(context))
    server = next(running)
    with pytest.raises(SendError, match="SSLCertVerificationError"):
        mailer(server, user="ann", password=SECRET).send(PLANNED, KEY)
    assert server.said == []
    next(running, None)


def _certificate(folder: Path) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "server.pem"
    file.write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtps://ann:p%40ss@mail.example", MailServer("mail.example", 465, True, "ann", "p@ss")),
        ("smtp://mail.example:2525", MailServer("mail.example", 2525, False)),
        ("smtp://mail.example", MailServer("mail.example", 587, False)),
    ],
)
def test_the_mail_server_is_read_of_its_url(url: str, server: MailServer) -> None:
    assert MailServer.parse(url) == server


@pytest.mark.parametrize("url", ["mail.example", "http://u:secret@mail.example", "smtp://h:no", "smtp://"])
def test_a_url_that_names_no_mail_server_is_not_quoted(url: str) -> None:
    with pytest.raises(SettingsError, match="notify_smtp_url") as told:
        MailServer.parse(url)
    assert "secret" not in str(told.value)


def test_the_address_book_is_read_again_when_it_changes(tmp_path: Path) -> None:
    import os

    file = tmp_path / "addresses.csv"
    book = AddressBook(file)
    with pytest.raises(SendError, match=r"notify_addresses: .*addresses\.csv cannot be read"):
        book("v1")
    file.write_text("visitor_id,address,name\nv1,ann@example.org,Ann\nv2,,Bob\n")
    assert (book("v1"), book("v2"), book("v3")) == ("ann@example.org", None, None)
    file.write_text("visitor_id,address\nv1,new@example.org\n")
    os.utime(file, ns=(1, 1))
    assert book("v1") == "new@example.org"
    file.write_text("visitor,address\nv1,x\n")
    with pytest.raises(SendError, match="no column 'visitor_id'"):
        book("v1")


# --- file -------------------------------------------------------------------------------------------------------------


def test_a_file_gets_a_line_for_each_and_half_a_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "out" / "push.jsonl"
    sender = FileSender(file, PLAIN)
    sender.send(PLANNED, KEY)
    with file.open("ab") as stream:
        stream.write(b'{"notification_id": "ha')
    sender.send(replace(PLANNED, notification_id="second"), "second")
    lines = file.read_bytes().split(b"\n")
    assert [json.loads(lines[place])["key"] for place in (0, 2)] == [KEY, "second"]
    assert lines[1:] == [b'{"notification_id": "ha', lines[2], b""]


def _write(file: Path, first: int) -> None:
    sender = FileSender(file, PLAIN)
    for number in range(first, first + 50):
        sender.send(replace(PLANNED, content_id="x" * 5_000), str(number))


def test_processes_that_write_at_once_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "push.jsonl"
    spawn = multiprocessing.get_context("fork")
    ours = [spawn.Process(target=_write, args=(file, 50 * n)) for n in range(3)]
    for one in ours:
        one.start()
    for one in ours:
        one.join()
    found = [json.loads(line)["key"] for line in file.read_bytes().splitlines()]
    assert sorted(map(int, found)) == list(range(150))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "push.jsonl").mkdir()
    with pytest.raises(SendError, match=r"push\.jsonl"):
        FileSender(tmp_path / "push.jsonl", PLAIN).send(PLANNED, KEY)


# --- choice and messages ----------------------------------------------------------------------------------------------


def test_each_channel_has_the_sender_of_its_setting(tmp_path: Path) -> None:
    book = tmp_path / "addresses.csv"
    chosen = Settings(
        home=tmp_path,
        notify_email="smtp",
        notify_push="webhook",
        notify_webhook_url=SecretStr("http://127.0.0.1:9"),
        notify_smtp_url=SecretStr("smtp://127.0.0.1"),
        notify_from="news@shop.example",
        notify_addresses=book,
    )
    kinds: dict[str, type[Sender]] = {name: type(sender) for name, sender in open_senders(chosen).items()}
    assert kinds == {"email": SmtpSender, "push": WebhookSender, "webhook": FileSender}


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"notify_push": "webhook"}, "notify_push is webhook, which needs notify_webhook_url"),
        ({"notify_email": "smtp"}, "notify_email is smtp, which needs notify_smtp_url"),
        (
            {"notify_email": "smtp", "notify_smtp_url": SecretStr("smtp://h"), "notify_from": "a@b.example"},
            "notify_email is smtp, which needs notify_addresses",
        ),
    ],
)
def test_a_missing_setting_is_named(tmp_path: Path, chosen: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as error:
        open_senders(Settings(home=tmp_path, **chosen))
    assert str(error.value) == told


def test_messages_come_by_type_and_any_stands_for_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "messages.toml"
    file.write_text(
        '[win_back_offer]\nsubject = "Come back"\ntext = "$content_id"\n[any]\nsubject = "News"\ntext = "$segment"\n'
    )
    messages = open_messages(Settings(home=tmp_path, notify_messages=file))
    assert messages.of(PLANNED) == Message("Come back", "b017")
    assert messages.of(replace(PLANNED, notification_type="x", content_id=None)) == Message("News", "at_risk")
    assert Messages({}).of(PLANNED) == Message("Win back offer", "Win back offer")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not toml", "cannot be read"),
        ("a = 1", r"\[a\]: give subject and text"),
        ('[a]\nsubject = "x"', r"\[a\]: give subject and text"),
        ('[a]\nsubject = "x"\ntext = "$price"', r"\[a\]: \$price is not one of notification_id"),
        ('[a]\nsubject = "5 $"\ntext = "x"', r"\[a\]: subject is no text with \$names"),
        ("[a]\nsubject = 1\ntext = 'x'", r"\[a\]: subject is no text"),
    ],
)
def test_a_template_that_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "messages.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=told):
        open_messages(Settings(home=tmp_path, notify_messages=file))


@rounds(max_examples=50)
@given(st.text(max_size=30), st.text(max_size=30))
def test_what_is_put_in_is_put_in_once(content: str, segment: str) -> None:
    """A value that looks like a field stays what it is, so nobody's message shows another's."""
    messages = Messages({"win_back_offer": Message("s", "<$content_id|$segment>")})
    told = messages.of(replace(PLANNED, content_id=content, segment=segment))
    assert told.text == f"<{content}|{segment}>"
