"""The live page's server, and the page itself in Chromium."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from starlette.testclient import TestClient

from lossmask import Encoder
from lossmask.confinement import Limits
from lossmask.embedded import DEMO_MODEL
from lossmask.live_encoding import LiveEncoding
from lossmask.live_worker import LiveWorker
from lossmask.preparing import EncoderSource
from lossmask.row_picker import RowPicker
from lossmask.serving import is_loopback, live_app
from tests.browser import (
    browser,
    console_messages,
    needs_browser,
    one,
    open_page,
    requested,
    screenshot,
    set_screen,
    texts,
)
from tests.injections import CANARY, INJECTIONS

TOKEN = "the secret of this run"
HERE = "http://127.0.0.1:8765"
ROW: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
}
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
LOAD = partial(LiveEncoding, EncoderSource(str(DEMO_MODEL)))


class Here:
    """Answers in this process."""

    def __init__(self) -> None:
        self.live = LOAD()
        self.began = threading.Event()
        self.hold = threading.Event()
        self.hold.set()
        self.asked: list[str] = []

    def ask(self, question: str, given: Mapping[str, Any]) -> bytes:
        self.asked.append(str(given.get("row")))
        self.began.set()
        assert self.hold.wait(10)
        return json.dumps(self.live.answer(question, given)).encode()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def here() -> Here:
    return Here()


def client_of(here: Here, **options: Any) -> TestClient:
    app = live_app(here, here, TOKEN, **options)
    headers = {"X-Lossmask-Token": TOKEN, "Content-Type": "application/json"}
    return TestClient(app, base_url=HERE, headers=headers, raise_server_exceptions=True)


@pytest.fixture
def client(here: Here) -> TestClient:
    return client_of(here)


def question(kind: str = "tokens", row: object = ROW, **others: Any) -> dict[str, Any]:
    text = row if isinstance(row, str) else json.dumps(row)
    return {"question": kind, "page": "p", "number": 1, "state": {"row": text, **others}}


# --- what is asked and answered -----------------------------------------------------------------


def test_tokens_are_those_of_the_encoder(client: TestClient) -> None:
    [example] = client.post("/encode", json=question()).json()["examples"]
    [expected] = Encoder.from_pretrained(DEMO_MODEL).encode_row(ROW).examples
    assert [example["table"][k][1] for k in example["pieces"]] == expected.input_ids.tolist()
    weights = [weight for count, weight in example["weights"] for _ in range(count)]
    assert weights == expected.loss_weights.tolist()


def test_rows_are_given_as_they_are_written(here: Here, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    lines = ['{"a": 1.0, "b": 12345678901234567890}', '{"text": "\\u00e9"}']
    data.write_text("\n".join(lines))
    client = client_of(here, rows=RowPicker([data]))
    found = client.post("/row", json={"number": 0}).json()
    assert found == {
        "row": lines[0],
        "problem": "",
        "number": 0,
        "place": f"{data}:1",
        "count": 2,
    }
    refused = client.post("/row", json={"number": 2})
    assert refused.status_code == 400
    assert refused.json()["detail"] == "there are 2, numbered from 0: there is no row 2"
    assert client.post("/row", json={"number": "1"}).status_code == 400


def test_without_data_there_is_no_row(client: TestClient) -> None:
    assert client.post("/row", json={"number": 0}).json() == {"row": None}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "the question is not JSON"),
        (b"[]", "the question is no object"),
        (b'{"question": 1, "page": ""}', "expected the keys question and page"),
        (b'{"question": "shell", "page": "", "number": 1, "state": {}}', "there is no question"),
        (b'{"question": "tokens", "page": "", "number": 1, "state": 1}', "expected the keys"),
        (b'{"question": "tokens", "page": "", "state": {}}', "expected the keys"),
        (b'{"question": "tokens", "page": "", "number": 1, "state": {}}', "row, template and"),
        (b" " * (17 << 20), "a question of more than 16 MiB"),
    ],
)
def test_a_question_that_is_none_is_refused(client: TestClient, body: bytes, detail: str) -> None:
    answer = client.post("/encode", content=body)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(detail)


def test_of_a_page_only_the_newest_question_that_waits_is_answered(here: Here) -> None:
    def send(client: TestClient, row: str, page: str, number: int) -> Future[Any]:
        body = {**question(row=row), "page": page, "number": number}
        asked = threads.submit(lambda: client.post("/encode", json=body).json())
        time.sleep(0.1)  # or they would come in another order
        return asked

    here.began.clear()
    here.hold.clear()
    here.asked.clear()
    with client_of(here) as client, ThreadPoolExecutor(5) as threads:
        first = send(client, "1", "p", 1)
        assert here.began.wait(10)
        waiting = [send(client, *each) for each in [("2", "p", 2), ("o", "q", 1), ("4", "p", 4)]]
        late = send(client, "3", "p", 3)
        here.hold.set()
        assert waiting[0].result(10) == late.result(10) == {"superseded": True}
        assert all("refusal" in each.result(10) for each in (first, waiting[1], waiting[2]))
    assert here.asked == ["1", "o", "4"]


# --- who may ask --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({"Host": "evil.example"}, "this server is not evil.example"),
        ({"Host": "127.0.0.1.evil.example:8765"}, "this server is not"),
        ({"Host": "127.0.0.1@evil.example"}, "this server is not"),
        ({"Host": "evil.example:[::1]"}, "this server is not"),
        ({"Host": "192.168.0.7:8765"}, "this server is not 192.168.0.7:8765"),
        ({"Host": ""}, "this server is not"),
        ({"Origin": "http://evil.example"}, "a page of http://evil.example may not ask"),
        ({"Origin": "null"}, "a page of null may not ask"),
        ({"Origin": "https://127.0.0.1:8765"}, "a page of https://127.0.0.1:8765 may not"),
        ({"Origin": "http://127.0.0.1:9999"}, "a page of http://127.0.0.1:9999 may not"),
        ({"Origin": "http://localhost:8765"}, "a page of http://localhost:8765 may not"),
        ({"Sec-Fetch-Site": "cross-site"}, "another site may not ask"),
        ({"Sec-Fetch-Site": "same-site"}, "another site may not ask"),
        ({"X-Lossmask-Token": "guessed"}, "the page has not the token of this run"),
        ({"X-Lossmask-Token": ""}, "the page has not the token of this run"),
        ({"Content-Type": "text/plain"}, "questions are application/json"),
    ],
)
def test_who_is_not_the_page_is_refused(
    here: Here, client: TestClient, headers: dict[str, str], detail: str
) -> None:
    here.asked.clear()
    for path in ("/encode", "/row"):
        answer = client.post(path, content=json.dumps(question()), headers=headers)
        assert answer.status_code == 403
        assert answer.json()["detail"].startswith(detail)
    assert here.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8765", "Origin": "http://localhost:8765"},
        {"Host": "[::1]:8765", "Origin": "http://[::1]:8765"},
        {"Host": "127.0.0.1:9000", "Origin": "http://127.0.0.1:9000"},  # through ssh -L
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_the_page_itself_is_answered(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/encode", json=question(), headers=headers).status_code == 200


def test_the_page_cannot_be_read_under_another_name(client: TestClient) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/live.js", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=visit).status_code == 200


def test_from_afar_an_address_or_this_machines_name_will_do(here: Here) -> None:
    client = client_of(here, is_remote=True)
    for host in ("192.168.0.7:8765", "[fe80::1]:8765", socket.gethostname()):
        assert client.post("/encode", json=question(), headers={"Host": host}).status_code == 200
    answer = client.post("/encode", json=question(), headers={"Host": "evil.example"})
    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["/", "/live.js", "/live.css", "/missing", "/encode"])
def test_every_answer_tells_the_browser_what_is_forbidden(client: TestClient, path: str) -> None:
    for answer in (client.get(path), client.get(path, headers={"Host": "evil.example"})):
        headers = answer.headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control") for name in headers)
    preflight = client.options(
        path, headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 403
    assert not any(name.startswith("access-control") for name in preflight.headers)


def test_the_page_holds_no_secret_and_no_other_file_is_served(client: TestClient) -> None:
    assert TOKEN not in client.get("/").text
    for path in ("/live.html", "/report.js", "/../serving.py", "/%2e%2e/serving.py", "/.env"):
        assert client.get(path).status_code == 404
    assert client.get("/encode").status_code == 405


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.example")),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


# --- in Chromium --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        ROW,
        {"messages": [{"role": "user", "content": "Two"}, {"role": "assistant", "content": "2"}]},
        {"text": "no messages"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def address(data: Path) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    with (
        LiveWorker(LOAD, Limits(1, 0.5), method="fork") as worker,
        LiveWorker(LOAD, Limits(1, 0.5), method="fork") as slow_worker,
    ):
        for each in (worker, slow_worker):
            each.ask("start", {})
        app = live_app(worker, slow_worker, "secret", rows=RowPicker([data]))
        settings = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none")
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)
    listener.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(driver: Chrome, address: str) -> Chrome:
    set_screen(driver, width=1280, height=900)
    open_page(driver, "about:blank")
    open_page(driver, f"{address}#secret")
    settle(driver)
    return driver


def wait_for(driver: Chrome, script: str) -> Any:
    for _ in range(400):
        if found := driver.execute_script(f"return {script}"):
            return found
        time.sleep(0.025)
    raise AssertionError(f"never: {script}; {texts(driver, '#app')}")


def settle(driver: Chrome) -> None:
    wait_for(driver, "lossmask.live && lossmask.live.isSettled()")


def type_into(driver: Chrome, css: str, text: str, *, instead: bool = True) -> None:
    """Type into a text area as a user does; long texts are put there, then one key pressed."""
    box = driver.find_elements(By.CSS_SELECTOR, css)[-1]
    box.click()
    if instead:
        box.send_keys(Keys.CONTROL, "a")
    box.send_keys(text)
    settle(driver)


def tab(driver: Chrome, name: str) -> None:
    one(driver, f"#tab-{name}").click()


def shown_ids(driver: Chrome) -> list[int]:
    example: Any = driver.execute_script("return lossmask.live.example()")
    return [example["table"][k][1] for k in example["pieces"]]


def ids_of(answer: str) -> list[int]:
    messages = [ROW["messages"][0], {"role": "assistant", "content": answer}]
    [example] = Encoder.from_pretrained(DEMO_MODEL).encode(messages)
    ids: list[int] = example.input_ids.tolist()
    return ids


def is_quiet(driver: Chrome, address: str) -> bool:
    assert driver.execute_script(f"return window.{CANARY}") is None
    assert console_messages(driver) == []
    urls = [url for url in requested(driver) if not url.startswith("about:")]
    assert [url for url in urls if not url.startswith((address, "chrome"))] == []
    return True


@needs_browser
def test_typing_changes_the_tokens_and_nothing_else_is_asked_for(
    page: Chrome, address: str
) -> None:
    assert page.current_url == address  # the secret is gone from there
    assert shown_ids(page) == ids_of("Hello")
    type_into(page, "textarea.content", " there", instead=False)
    assert shown_ids(page) == ids_of("Hello there")
    drawn = "".join(texts(page, ".lm-trained")).replace("·", " ")
    assert drawn == "Hello there<|im_end|>"
    assert one(page, ".timing").text.endswith(" ms")
    timings: Any = page.execute_script("return lossmask.live.timings")
    assert len(timings) >= 2
    assert all(0 < each["encode"] < each["total"] for each in timings[-1:])
    assert is_quiet(page, address)


@needs_browser
def test_a_token_tells_its_template_line_once_nobody_types(page: Chrome, address: str) -> None:
    wait_for(page, "lossmask.live.hasOrigins()")
    assert one(page, ".proven").text == "✓ proven"
    page.find_elements(By.CSS_SELECTOR, ".lm-trained")[0].click()
    assert "message 1 assistant · content" in one(page, ".lm-card").text
    assert "template line\n2" in one(page, ".lm-card").text
    why = "it is content of message 1: train_on=all_assistant trains that message"
    assert why in one(page, ".lm-card").text
    tab(page, "template")
    mark = one(page, "[aria-labelledby=tab-template] .mark.is-origin")
    assert mark.get_attribute("style") == "top: 30px;"
    assert is_quiet(page, address)


@needs_browser
def test_a_broken_template_is_told_on_its_line_and_the_last_tokens_stay_greyed(
    page: Chrome, address: str
) -> None:
    before = shown_ids(page)
    tab(page, "template")
    editor = "[aria-labelledby=tab-template] .code textarea"
    type_into(page, editor, "a\nb\n{% if %}")
    assert one(page, ".refusal .place").text == "template line 3"
    problem = one(page, "[aria-labelledby=tab-template] .code-editor .problem").text
    assert problem.startswith("the chat template does not compile: line 3")
    assert "is-stale" in (one(page, ".result").get_attribute("class") or "")
    assert shown_ids(page) == before
    assert one(page, ".mark.is-wrong:not([hidden])").get_attribute("style") == "top: 50px;"
    assert "is-wrong" in (one(page, "#tab-template").get_attribute("class") or "")
    assert is_quiet(page, address)


@needs_browser
def test_a_policy_and_presets_are_applied(page: Chrome, address: str) -> None:
    tab(page, "policy")
    editor = "[aria-labelledby=tab-policy] .code textarea"
    type_into(page, editor, "stop: nevr")
    assert one(page, ".refusal .place").text == "policy line 1"
    assert "did you mean 'never'?" in one(page, ".refusal").text
    type_into(page, editor, "stop: never")
    assert "".join(texts(page, ".lm-trained")) == "Hello"
    tab(page, "template")
    choices = one(page, "select[aria-label='Templates to begin with']")
    next(o for o in choices.find_elements(By.TAG_NAME, "option") if o.text == "alpaca").click()
    settle(page)
    assert "### Response:" in one(page, ".tokens").text
    assert is_quiet(page, address)


@needs_browser
def test_a_template_that_never_ends_leaves_the_page_alive(page: Chrome, address: str) -> None:
    tab(page, "template")
    editor = "[aria-labelledby=tab-template] .code textarea"
    template = one(page, editor).get_attribute("value") or ""
    set_value = (
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new InputEvent('input'))"
    )
    page.execute_script(set_value, one(page, editor), LOOP + template)
    settle(page)
    assert one(page, ".refusal .kind").text == "template_limits"
    assert "hangs" in one(page, ".refusal").text
    page.execute_script(set_value, one(page, editor), template)
    settle(page)
    assert not one(page, ".refusal").is_displayed()
    assert shown_ids(page) == ids_of("Hello")
    assert is_quiet(page, address)


@needs_browser
def test_the_doctor_tells_what_the_template_in_the_editor_does(page: Chrome, address: str) -> None:
    tab(page, "doctor")
    wait_for(page, "document.querySelectorAll('.fact').length > 5")
    before = texts(page, ".fact p")
    tab(page, "template")
    type_into(page, "[aria-labelledby=tab-template] .code textarea", "{{ messages[0].content }}")
    tab(page, "doctor")
    wait_for(page, "!document.querySelector('.doctor.is-waiting')")
    assert texts(page, ".fact p") != before
    assert is_quiet(page, address)


@needs_browser
def test_rows_are_gone_through_and_those_without_messages_edited_as_json(
    page: Chrome, address: str
) -> None:
    one(page, "[aria-label='Next row']").click()
    wait_for(page, "document.querySelector('.picker input').value === '1'")
    settle(page)
    assert "Two" in one(page, ".tokens").text
    one(page, "[aria-label='Next row']").click()
    wait_for(page, "document.querySelector('.picker input').value === '2'")
    settle(page)
    assert (
        one(page, "[aria-labelledby=tab-conversation] .note").text
        == "Edited as JSON: the row has no list of messages."
    )
    assert not one(page, "[aria-label='Next row']").is_enabled()
    assert one(page, ".picker .place").text == "of 3 · rows.jsonl:3"
    type_into(page, "[aria-label='The row as JSON']", '{\n"messages": [')
    assert one(page, ".refusal .place").text == "JSON line 2"
    assert is_quiet(page, address)


@needs_browser
def test_messages_are_added_moved_and_removed(page: Chrome, address: str) -> None:
    page.find_element(By.XPATH, "//button[text()='+ message']").click()
    type_into(page, "textarea.content", "More?")
    page.find_element(By.XPATH, "//button[text()='+ message']").click()
    type_into(page, "textarea.content", "No.")
    assert "".join(texts(page, ".lm-trained")) == "Hello<|im_end|>No.<|im_end|>"
    page.find_elements(By.XPATH, "//button[text()='+ tool calls']")[-1].click()
    settle(page)
    assert one(page, ".finding .kind").text == "content_dropped"
    assert one(page, ".finding .where").text == "message 3"
    calls = "textarea.is-code"
    type_into(page, calls, "[{]")
    assert one(page, ".field .problem:not([hidden])").text
    one(page, "[aria-label='Remove tool calls']").click()
    one(page, "[aria-label='Remove message 1']").click()
    settle(page)
    assert texts(page, ".message .number") == ["0", "1", "2"]
    assert one(page, "[aria-label='Move message 0 up']").is_enabled() is False
    one(page, "[aria-label='Move message 2 up']").click()
    settle(page)
    assert texts(page, ".lm-role") == ["0 user", "1 assistant", "2 user"]
    assert is_quiet(page, address)


@needs_browser
def test_numbers_stay_as_they_are_written(page: Chrome, address: str) -> None:
    page.find_element(By.XPATH, "//button[text()='JSON']").click()
    row = json.dumps(ROW)[:-1] + ', "x": [1.0, 12345678901234567890, 1e2, -0]}'
    box = one(page, "[aria-label='The row as JSON']")
    page.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new InputEvent('input'))",
        box,
        row,
    )
    page.find_element(By.XPATH, "//button[text()='Messages']").click()
    type_into(page, "textarea.content", "!", instead=False)
    page.find_element(By.XPATH, "//button[text()='JSON']").click()
    text = one(page, "[aria-label='The row as JSON']").get_attribute("value") or ""
    assert [line.strip(" ,") for line in text.split("\n")][-6:-2] == [
        "1.0",
        "12345678901234567890",
        "1e2",
        "-0",
    ]
    assert is_quiet(page, address)


@needs_browser
def test_strings_that_would_run_are_text_everywhere(page: Chrome, address: str) -> None:
    set_value = (
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new InputEvent('input'))"
    )
    page.find_element(By.XPATH, "//button[text()='JSON']").click()
    box = one(page, "[aria-label='The row as JSON']")
    pairs = [
        {"role": role, "content": text} for text in INJECTIONS for role in ("user", "assistant")
    ]
    odd = [{"role": text, "content": text, text: text} for text in INJECTIONS]
    for messages in (pairs, odd, *([each] for each in odd)):
        page.execute_script(set_value, box, json.dumps({"messages": messages}))
        settle(page)
        page.find_element(By.XPATH, "//button[text()='Messages']").click()
        page.find_element(By.XPATH, "//button[text()='JSON']").click()
    for name, text in (("template", "{{ x('%s') }}"), ("policy", "'%s': 1")):
        tab(page, name)
        editor = one(page, f"[aria-labelledby=tab-{name}] .code textarea")
        for each in INJECTIONS:
            page.execute_script(set_value, editor, text.replace("%s", each))
            settle(page)
    assert page.execute_script("return document.querySelectorAll('img, iframe, base').length") == 0
    assert is_quiet(page, address)


@needs_browser
def test_the_row_and_python_are_copied(page: Chrome, address: str) -> None:
    for name in ("clipboard-read", "clipboard-write"):
        page.execute_cdp_cmd(
            "Browser.setPermission", {"permission": {"name": name}, "setting": "granted"}
        )
    page.find_element(By.XPATH, "//button[text()='Copy row']").click()
    wait_for(page, "document.body.textContent.includes('✓ copied')")
    read = (
        "const done = arguments[0]; navigator.clipboard.readText().then(done, (e) => done(`${e}`))"
    )
    assert json.loads(page.execute_async_script(read)) == ROW
    page.find_element(By.XPATH, "//button[text()='Copy Python']").click()
    wait_for(page, "[...document.querySelectorAll('.bar button')][3].textContent.includes('✓')")
    assert "Encoder.from_pretrained(" in page.execute_async_script(read)


@needs_browser
def test_without_the_secret_the_page_says_what_to_open(driver: Chrome, address: str) -> None:
    open_page(driver, "about:blank")
    driver.get(f"{address}#wrong")
    assert wait_for(driver, "document.querySelector('.nothing')?.textContent") == (
        "the page has not the token of this run: open the address that lossmask printed"
    )


@needs_browser
@pytest.mark.parametrize(
    ("width", "dark", "touch"), [(1280, False, False), (1280, True, False), (390, False, True)]
)
def test_the_page_can_be_read_in_the_light_in_the_dark_and_on_a_phone(
    page: Chrome, address: str, tmp_path: Path, width: int, dark: bool, touch: bool
) -> None:
    set_screen(page, width=width, height=900, dark=dark, touch=touch)
    image = screenshot(page, tmp_path / "page.png")
    assert image.size == (width, 900)
    pixel: Any = image.getpixel((3, 890))
    assert (sum(pixel) < 150) == dark
    sizes = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert sizes == [width, width]
    assert page.find_elements(By.CSS_SELECTOR, ".tokens .lm-trained")[0].is_displayed()
    assert is_quiet(page, address)
