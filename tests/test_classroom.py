"""A class: its teacher's key, its pages, what bad input to it does; and the teacher's page."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from bench import classroom as bench
from lab import classroom, network
from lab.classroom import Classroom
from lab.settings import Settings, from_command_line
from pushlab.transports import TRANSPORTS
from tests.browsing import (
    DESK,
    HALL,
    LANES,
    OLD_PROJECTOR,
    PHONE,
    Browser,
    check_looks,
    in_another_tab,
)
from tests.clients import LabPage
from tests.conftest import Server, Start, eventually, starting, until_same
from tests.test_controls import check_rights, set_pace
from tests.test_experiments import CONNECT, DISCONNECT, begin, press
from tests.test_how_to import blocks
from tests.test_lab import JSON
from tests.test_programs import is_one_clear_line, rejection

ROOM = ("--class", "--host", "127.0.0.1", "--pace", "0.2")
MEDIANS = {"websocket": 4.9, "longpoll": 5.5}


@contextmanager
def class_of(server: Server, students: int) -> Iterator[tuple["LabPage", list["LabPage"]]]:
    """The teacher's page and those of students, connected."""
    with ExitStack() as stack:
        teacher, *others = (stack.enter_context(LabPage(server.ws)) for _ in range(students + 1))
        teach(server, teacher)
        teacher.do("end")  # what a test that failed has left
        teacher.wait_for("class", lambda room: room["pages"] == students)
        yield teacher, others


def key_of(server: Server) -> str:
    """The key in the link that the server prints."""
    found = eventually(lambda: re.search(r"/\?key=([\w-]+)", "".join(server.out)))
    return str(found[1])


def teach(server: Server, page: LabPage) -> None:
    page.do("teach", key=key_of(server))
    page.wait_for("lab", lambda about: about["class"]["role"] == "teacher")


def result(run: int, **changes: Any) -> dict[str, Any]:
    figures = {"n": 9, "p50": 5.5, "p95": 9.25, "bytes": 1089, "requests": None, "lost": 0}
    whole = {"experiment": "near", "run": run, "prediction": "websocket", "value": "same"}
    return {**whole, "lanes": {"websocket": figures}, **changes}


def in_order(medians: dict[str, list[float]]) -> dict[str, list[float]]:
    """The same, whichever page was first."""
    return {transport: sorted(values) for transport, values in medians.items()}


@pytest.fixture(scope="module")
def room() -> Iterator[Server]:
    """A server with a class."""
    with starting() as start:
        yield start("serve.py", *ROOM)


@pytest.fixture
def classmates(room: Server) -> Iterator[tuple[LabPage, list[LabPage]]]:
    """The teacher's page and two students'; no experiment is under way."""
    with class_of(room, 2) as (teacher, students):
        yield teacher, students
        teacher.do("end")
        teacher.clock()


# The key, and rights.


def test_the_controls_are_the_teachers(room: Server) -> None:
    """Also on the server's own machine; a page with the key is the teacher's."""
    with LabPage(room.ws) as page, LabPage(room.ws) as other:
        about = page.wait_for("lab")
        assert about["may_steer"] is False
        assert about["class"] == {"role": "student", "address": room.url}
        for control in ("change", "burst", "pace", "borrow", "freeze"):
            [error] = page.errors(json.dumps({"do": control, "pace": "4 per s"}))
            assert error == "the teacher has the controls"
        teach(room, page)
        assert page.received[-1]["lab"]["may_steer"] is True
        set_pace(page, "paused")
        set_pace(page, "every 0.2 s")
        assert page.errors('{"do":"change"}') == []
        assert other.wait_for("lab")["may_steer"] is False
        assert other.errors('{"do":"change"}') == ["the teacher has the controls"]


@pytest.mark.parametrize(
    "key",
    ["", "wrong", "\ud800", "ключ", None, 1, True, 1e300, [], ["{key}"], {"key": 1}, "{key}x",
     "{KEY}", "{key} "],
)  # fmt: skip
def test_a_wrong_key_leaves_a_page_a_students(room: Server, key: Any) -> None:
    right = key_of(room)
    text = json.dumps({"do": "teach", "key": key}).replace("{key}", right)
    text = text.replace("{KEY}", right.swapcase())
    with LabPage(room.ws) as page:
        for message in (text, '{"do":"teach"}'):
            assert page.errors(message) == ["key: not the key of this class's teacher"]
        assert page.errors('{"do":"change"}') == ["the teacher has the controls"]
        teach(room, page)


@pytest.mark.parametrize("command", ["experiment", "end"])
def test_what_only_the_teacher_may(
    room: Server, classmates: tuple[LabPage, list[LabPage]], command: str
) -> None:
    teacher, [student, other] = classmates
    teacher.do("experiment", id="near")
    teacher.wait_for("experiment")
    error = "only the teacher starts and ends an experiment for all"
    assert student.errors(json.dumps({"do": command, "id": "pace"})) == [error]
    assert other.wait_for("experiment")["id"] == "near"
    assert not any("class" in message for message in student.received), "for the teacher alone"


def test_without_a_class_there_are_no_such_commands(server: Server, page: LabPage) -> None:
    for command in classroom.COMMANDS:
        [error] = page.errors(json.dumps({"do": command, "id": "near", "lanes": {}, "key": ""}))
        assert error.startswith("do: none of clock, ")
        assert "teach" not in error
    html = server.http.get("/")
    assert b"classroom" not in html.body
    assert "Referrer-Policy" not in html.headers


# Together.


def test_twelve_pages_measure_together(room: Server) -> None:
    with class_of(room, 12) as (teacher, students):
        for number, student in enumerate(students):
            student.do("medians", lanes={"websocket": number, "longpoll": number / 2})
        wanted = {"longpoll": [n / 2 for n in range(12)], "websocket": list(range(12))}
        teacher.wait_for("class", lambda room: in_order(room["medians"]) == wanted)

        teacher.do("experiment", id="payload")
        run = teacher.wait_for("experiment")["run"]
        for student in students:
            begun = student.wait_for("experiment")
            assert (begun["id"], begun["run"]) == ("payload", run)
            assert begun["age"] >= 0
        for number, student in enumerate(students[:10]):
            prediction, lanes = (1 if number % 3 else 3), {"websocket": {"p50": 100 + number}}
            student.do("result", **result(run, experiment="payload", prediction=prediction,
                                          value=3.0, lanes=lanes))  # fmt: skip
        found = teacher.wait_for("class", lambda room: room["results"]["count"] == 10)["results"]
        assert {**found, "lanes": in_order(found["lanes"])} == {
            "run": run, "id": "payload", "count": 10, "predictions": [[1, 6], [3, 4]],
            "values": [[3.0, 10]], "lanes": {"websocket": list(range(100, 110))},
        }  # fmt: skip

        for student in students[:5]:  # in the middle
            student.close()
        report = teacher.wait_for("class", lambda room: room["pages"] == 7)
        assert report["results"]["count"] == 10
        assert len(report["medians"]["websocket"]) == 7

        with LabPage(room.ws) as late:
            begun = late.wait_for("experiment")
            assert (begun["id"], begun["run"]) == ("payload", run)
            late.do("result", **result(run, experiment="payload"))
            assert late.errors() == []
        teacher.do("end")
        for page in (teacher, *students[5:]):
            assert page.wait_for("experiment") is None
        students[11].do("result", **result(run, experiment="payload"))  # a slow one
        teacher.wait_for("class", lambda room: room["results"]["count"] == 12)
        with LabPage(room.ws) as later:
            later.wait_for("meters")
            assert "experiment" not in later.received[0]
    assert room.log == ""


def test_another_page_of_the_teacher_goes_on(room: Server) -> None:
    """The first is reloaded in the middle; there may also be two."""
    with class_of(room, 1) as (teacher, [student]):
        teacher.do("experiment", id="near")
        run = student.wait_for("experiment")["run"]
        teacher.close()
        with LabPage(room.ws) as again, LabPage(room.ws) as second:
            for page in (again, second):
                assert page.wait_for("experiment")["run"] == run
                teach(room, page)
            [error] = second.errors('{"do":"experiment","id":"pace"}')
            assert error == "experiment: near is under way; end it first"
            again.do("end")
            again.do("end")
            assert again.errors() == []
            second.wait_for("experiment", lambda experiment: experiment is None)
            second.do("experiment", id="pace")
            for page in (student, again):
                begun = page.wait_for("experiment", bool)
                assert (begun["id"], begun["run"]) == ("pace", run + 1)
            assert second.wait_for("class")["pages"] == 1
            second.do("end")


def test_a_run_that_nobody_ends_does_not_last_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classroom, "LONGEST_RUN", 0.0)
    room = Classroom(Settings())
    with room.joined() as teacher, room.joined() as student:
        teacher.is_teacher = True
        for _ in range(2):
            room.carry_out(teacher, {"do": "experiment", "id": "near"})
            assert "experiment" not in room.news(student)


# Bad input.

BAD_FIGURES = ["NaN", "Infinity", "-Infinity", "1e400", "-1", "-0.5", "true", '"5"', "[5]", "{}",
               "1e9", "1" + "0" * 400]  # fmt: skip
NEST = "[" * 900 + "]" * 900
BAD_LANES = ["null", "[]", "4", '"websocket"', '{"telegraph":4}', '{"":4}', '{"\\ud800":4}', NEST,
             json.dumps({f"websocket{number}": 4 for number in range(100)}),
             json.dumps({**dict.fromkeys(TRANSPORTS, 4), "carrier-pigeon": 4})]  # fmt: skip


def message(do: str, **fields: str) -> str:
    """A message whose fields are JSON already."""
    return (
        "{" + ",".join([f'"do":"{do}"', *(f'"{name}":{it}' for name, it in fields.items())]) + "}"
    )


def test_junk_in_medians_is_refused(classmates: tuple[LabPage, list[LabPage]]) -> None:
    teacher, [student, other] = classmates
    student.do("medians", lanes=MEDIANS)
    junk = [*BAD_LANES, *(f'{{"websocket":{figure}}}' for figure in [*BAD_FIGURES, "null"])]
    for lanes in junk:
        [error] = student.errors(message("medians", lanes=lanes))
        assert error == "lanes: not milliseconds by poll, longpoll, sse, websocket", lanes
    assert student.errors('{"do":"medians"}')
    other.do("medians", lanes={"websocket": 0, "poll": 123456.5})
    found = teacher.wait_for("class", lambda room: "poll" in room["medians"])["medians"]
    assert in_order(found) == {"websocket": [0, 4.9], "longpoll": [5.5], "poll": [123456.5]}


def test_junk_in_a_result_is_refused(classmates: tuple[LabPage, list[LabPage]]) -> None:
    teacher, [student, other] = classmates
    assert student.errors(json.dumps({"do": "result", **result(0)})), "runs begin at 1"
    teacher.do("experiment", id="near")
    run = teacher.wait_for("experiment")["run"]  # reports before may have no results
    whole = {name: json.dumps(value) for name, value in result(run).items()}
    junk: dict[str, list[str]] = {
        "lanes": [*BAD_LANES, '{"websocket":null}', '{"websocket":[5]}',
                  *(f'{{"websocket":{{"p50":{figure}}}}}' for figure in BAD_FIGURES),
                  *(f'{{"websocket":{{"p50":5,"n":{figure}}}}}' for figure in BAD_FIGURES)],
        "prediction": ["NaN", "1e400", "true", "[]", "{}", '"' + 41 * "x" + '"'],
        "value": ["-Infinity", "-1e9", "false", '["near"]', '"' + 999 * "x" + '"'],
        "run": ["null", str(run + 1), "0", "-1", "true", f'"{run}"', f"[{run}]", "1e400", "NaN"],
        "experiment": ["null", '"pace"', '"unknown"', "1", '["near"]'],
    }  # fmt: skip
    for name, values in junk.items():
        for value in values:
            [error] = student.errors(message("result", **{**whole, name: value}))
            assert error.startswith(f"{name}:"), value
    for name in ("lanes", "run", "experiment"):
        rest = {field: value for field, value in whole.items() if field != name}
        [error] = student.errors(message("result", **rest))
        assert error.startswith(f"{name}:")
    assert student.errors(message("result", **whole)) == []
    assert student.errors(message("result", **whole)) == [
        "result: there is one of this page already"
    ]
    nothing = {"lanes": "{}", "prediction": "null", "value": "null"}
    assert other.errors(message("result", **{**whole, **nothing})) == []
    found = teacher.wait_for("class", lambda room: room["results"]["count"] == 2)["results"]
    assert found["lanes"] == {"websocket": [5.5]}
    assert found["predictions"] == [["websocket", 1]]


@pytest.mark.parametrize("name", ["null", "1", '""', '"NEAR"', '"\\ud800"', "[]", '["near"]', "{}"])
def test_an_unknown_experiment_is_not_started(
    classmates: tuple[LabPage, list[LabPage]], name: str
) -> None:
    teacher, [student, _] = classmates
    for text in (message("experiment", id=name), message("experiment")):
        assert teacher.errors(text) == [f"id: none of {', '.join(classroom.EXPERIMENTS)}"]
    teacher.do("experiment", id="near")
    assert student.wait_for("experiment")["id"] == "near"


def test_the_experiments_are_those_of_the_page(modules: Browser) -> None:
    script = "import('/static/experiments.js').then(({ experiments }) => arguments[0](experiments))"
    found = modules.execute_async_script(script)
    assert [each["id"] for each in found] == list(classroom.EXPERIMENTS)


def test_no_more_results_are_kept_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classroom, "MAX_RESULTS", 3)
    room = Classroom(Settings())
    with ExitStack() as stack:
        teacher, *students = (stack.enter_context(room.joined()) for _ in range(5))
        teacher.is_teacher = True
        room.carry_out(teacher, {"do": "experiment", "id": "near"})
        for student in students[:3]:
            room.carry_out(student, {"do": "result", **result(1)})
        with pytest.raises(classroom.CommandRejected, match="result: 3 are there already"):
            room.carry_out(students[3], {"do": "result", **result(1)})


COMMANDS = st.fixed_dictionaries(
    {"do": st.sampled_from(classroom.COMMANDS)},
    optional={
        "lanes": st.dictionaries(st.sampled_from([*TRANSPORTS, "x"]), JSON) | JSON,
        "key": JSON, "id": st.sampled_from(classroom.EXPERIMENTS) | JSON, "run": JSON,
        "prediction": JSON, "value": JSON, "experiment": JSON,
    },
)  # fmt: skip


def test_any_command_is_carried_out_or_rejected(room: Server) -> None:
    with class_of(room, 1) as (teacher, _), LabPage(room.ws) as page:

        @settings(max_examples=100, derandomize=True, deadline=None, database=None)
        @given(COMMANDS)
        def send(command: dict[str, Any]) -> None:
            assert len(page.errors(json.dumps(command))) <= 1
            assert len(teacher.errors(json.dumps(command))) <= 1

        send()
        assert teacher.wait_for("class")["pages"] == 2
        teacher.do("end")
    assert room.log == ""


# The network, and the page's HTML.


def test_the_address_and_the_key_are_printed(start: Start) -> None:
    """The address of the interface with the default route is the first; each can be opened."""
    [command] = blocks("teach-a-class", "sh")
    server = start(*command.split()[1:])
    key = key_of(server)
    eventually(lambda: any("hotspot" in line for line in server.out))
    printed = "".join(server.out)
    best, *others = network.addresses("0.0.0.0")
    assert f"The class opens:   http://{best}:{server.port}\n" in printed
    assert f"The teacher opens: http://{best}:{server.port}/?key={key}\n" in printed
    assert "█▄▄▄█" in printed, "the QR code"
    assert "allow private networks" in printed
    for address in (best, *others):
        with LabPage(f"ws://{address}:{server.port}") as page:
            assert page.wait_for("lab")["class"]["address"] == f"http://{best}:{server.port}"
    assert len(key) >= 16


def test_a_terminal_without_the_characters_of_the_code(start: Start) -> None:
    server = start("serve.py", *ROOM, environment={"PYTHONIOENCODING": "cp1252"})
    eventually(lambda: any("hotspot" in line for line in server.out))
    assert "█" not in "".join(server.out)
    assert key_of(server)


@pytest.mark.parametrize("program", ["serve2.py", "servers/threads.py"])
def test_other_programs_serve_a_class_too(start: Start, program: str) -> None:
    server = start(program, *ROOM)
    with class_of(server, 1) as (teacher, [student]):
        teacher.do("experiment", id="near")
        assert student.wait_for("experiment")["id"] == "near"
        teacher.wait_for("class", lambda room: room["pages"] == 1)


def test_addresses() -> None:
    for host in ("127.0.0.1", "192.0.2.7", "lab.example", "::1"):
        assert network.addresses(host) == [host]
    for host in ("0.0.0.0", "::"):
        assert not {"127.0.0.1", "::1"} & set(network.addresses(host))


def test_no_default_route_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_ELSEWHERE", {socket.AF_INET: "no address"})
    assert network.addresses("0.0.0.0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--class --controls", "leave out --controls"),
        ("--class --no-controls", "leave out --controls and --no-controls"),
        ("--class --workers 2 --redis redis://127.0.0.1", "--workers"),
        ("--class --source http", "PUSHLAB_TOKEN"),
    ],
)
def test_what_does_not_go_with_a_class(
    options: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PUSHLAB_TOKEN", raising=False)
    error = rejection(options.split(), capsys)
    assert is_one_clear_line(error)
    assert words in error


def test_a_class_needs_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another server would print neither the address nor the key."""
    monkeypatch.setenv("PUSHLAB_OPTIONS", "--class")
    with pytest.raises(SystemExit):
        from_command_line("serve")
    assert is_one_clear_line(error := capsys.readouterr().err)
    assert "--class" in error


def test_a_misdirected_request_is_told_what_to_do(start: Start) -> None:
    server = start("serve.py", "--source", "clock")
    for host, name in (("lab.example:80", "lab.example"), ("[2001:db8::1]:80", "NAME")):
        response = server.http.get("/", headers={"Host": host})
        assert response.status == 421
        assert f"--allow-host {name}," in response.json["error"]
        assert "--host 0.0.0.0" in response.json["error"]


def test_other_machines_address_is_printed_without_a_class(start: Start) -> None:
    server = start("serve.py", "--host", "0.0.0.0", "--source", "clock")
    best = network.addresses("0.0.0.0")[0]
    eventually(lambda: f"From other machines: http://{best}:{server.port}\n" in server.out)
    with LabPage(server.ws) as page:
        check_rights(server, page, may_control=True)


def test_the_page_invites_by_the_address_that_it_was_requested_at(start: Start) -> None:
    server = start("serve.py", "--class", "--source", "clock")
    best = network.addresses("0.0.0.0")[0]
    for host in (f"127.0.0.1:{server.port}", "evil.example", f"{best}:{server.port}", ""):
        response = server.http.get("/?key=secret", headers={"Host": host} if host else {})
        html = response.body.decode()
        assert f'<p class="address">http://{best}:{server.port}</p>' in html
        assert f"QR code of http://{best}:{server.port}</title>" in html
        assert "secret" not in html
        assert response.headers["Referrer-Policy"] == "strict-origin"
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
        assert "The teacher has the controls." in html
        assert "--controls" not in html


# The teacher's page.


def medians_shown(browser: Browser) -> dict[str, tuple[str, int]]:
    """By lane, the median that the plot states, and its number of dots."""
    rows = browser.find_all("[data-field=medians] tbody tr:not(.axis):not([hidden])")
    return {
        row.get_attribute("class"): (
            row.find_element("css selector", "td:nth-child(3)").text,
            row.find_element("css selector", ".dots").get_attribute("d").count("M"),
        )
        for row in rows
    }


def test_the_teachers_page(room: Server, browser: Browser, axe: str) -> None:
    with ExitStack() as stack:
        students = [stack.enter_context(LabPage(room.ws)) for _ in range(12)]
        for number, student in enumerate(students):
            student.do("medians", lanes={"websocket": 1 + number, "longpoll": 100 * (1 + number)})
        browser.visit(room, f"/?key={key_of(room)}")
        eventually(lambda: browser.find("[data-classroom]").is_displayed())
        assert "key" not in browser.current_url
        shown = {"websocket": ("6.5 ms", 12), "longpoll": ("650 ms", 12)}
        eventually(lambda: medians_shown(browser) == shown)
        students[0].do("medians", lanes={"websocket": 1, "longpoll": 100, "sse": 7})
        in_order_of_lanes = ["longpoll", "sse", "websocket"]
        eventually(lambda: list(medians_shown(browser)) == in_order_of_lanes)
        assert browser.find("[data-field=here]").text == "12 pages are here."
        assert browser.find(".address").text == room.url
        assert browser.control("change").is_enabled()
        check_looks(
            browser, axe, "the teacher's page", (DESK, "light"), (DESK, "dark"),
            (HALL, "light"), ((1280, 720), "dark"), (OLD_PROJECTOR, "light"), (PHONE, "dark"),
        )  # fmt: skip
        browser.look_as_before()

        browser.refresh()  # it stays the teacher's
        eventually(lambda: browser.find("[data-classroom]").is_displayed())
        students.pop().close()
        eventually(lambda: browser.find("[data-field=here]").text == "11 pages are here.")
        teacher = stack.enter_context(LabPage(room.ws))
        teach(room, teacher)
        teacher.do("experiment", id="near")
        run = students[0].wait_for("experiment")["run"]
        for student in students[:3]:
            student.do("result", **result(run))
        eventually(lambda: browser.find("[data-field=run-count]").text == "Results of 3 pages.")
        assert browser.find("[data-field=predicted]").text == "Predicted: WebSocket × 3"
        browser.find("[data-action=end]").click()
        for page in (teacher, students[0]):
            assert page.wait_for("experiment", lambda experiment: experiment is None) is None
        eventually(lambda: not browser.find("[data-action=end]").is_displayed())


def test_a_students_page(room: Server, browser: Browser) -> None:
    """Also one with a wrong key, which says so once, and is not kept."""
    browser.visit(room, "/?key=wrong")
    browser.until_notice("That was refused: key: not the key of this class's teacher.")
    assert not browser.find("[data-classroom]").is_displayed()
    assert not browser.control("change").is_enabled()
    assert "The teacher has the controls." in browser.find("[data-field=rights]").text
    assert browser.execute_script("return sessionStorage.getItem('pushlab-key')") == ""
    with LabPage(room.ws) as teacher:
        teach(room, teacher)
        report = teacher.wait_for("class", lambda room: room["medians"])
        assert report["pages"] == 1
        assert all(0 < median < 60_000 for [median] in report["medians"].values())


#: Whether the focus is on what the class's card covers.
COVERED = "return !!document.activeElement.closest('header, main > :not(.classroom)')"
#: Whether an element is no higher than the screen.
FITS = "return arguments[0].scrollHeight <= innerHeight"


#: Where the page is, in one step: an element found may be that of the page before.
PLACE = "return document.querySelector('[aria-label=Distance] a[aria-current]')?.textContent"


def until_at(browser: Browser, distance: str) -> None:
    """Wait until the page is there."""
    until_same(lambda: (browser.execute_script(PLACE), distance))


def is_at(browser: Browser, distance: str) -> None:
    """Wait until the teacher's page is there."""
    until_at(browser, distance)
    eventually(lambda: browser.find("[data-action=class]").is_displayed())
    assert "key" not in browser.current_url


def test_another_distance_is_the_teachers_too(start: Start, browser: Browser) -> None:
    server = start("serve.py", *ROOM, "--far", "20")
    browser.visit(server, f"/?key={key_of(server)}")
    is_at(browser, "here")
    link = browser.find(".lesson a")
    assert "key" not in link.get_attribute("href")
    link.click()
    is_at(browser, "20 ms away")
    assert browser.find(".address").text == server.url

    browser.find("[aria-label=Distance] a:not([aria-current])").click()  # back, then by one
    is_at(browser, "here")
    browser.find("[data-action=experiment][value=payload]").click()
    is_at(browser, "20 ms away")
    assert browser.find(".experiments [data-part=title]").text == "One trip or three?"


def test_the_projector_shows_the_class_or_the_lanes(
    room: Server, browser: Browser, axe: str
) -> None:
    """Each of them alone fits the screen, also with what a run has measured."""
    with class_of(room, 2) as (teacher, students):
        run = start_run(teacher, students[0])
        for student in students:
            student.do("medians", lanes=dict.fromkeys(LANES, 20))
            student.do("result", **result(run, lanes={lane: {"p50": 20} for lane in LANES}))
        try:
            check_the_projector(room, browser, axe)
        finally:
            teacher.do("end")


def start_run(teacher: LabPage, student: LabPage) -> int:
    """Start an experiment for all; return its run's number."""
    teacher.do("experiment", id="near")
    return int(student.wait_for("experiment")["run"])


def check_the_projector(room: Server, browser: Browser, axe: str) -> None:
    browser.visit(room, f"/?present&key={key_of(room)}")
    card, opener = browser.find("[data-classroom]"), browser.find("[data-action=class]")
    eventually(opener.is_displayed)
    assert not card.is_displayed()
    for width, height in ((1280, 720), OLD_PROJECTOR, HALL):
        browser.look(width=width, height=height)
        eventually(lambda: browser.execute_script(FITS, browser.find("html")))
    opener.click()
    assert card.is_displayed()
    eventually(lambda: len(browser.find_all(".strips svg")) == 2 * len(LANES))
    for width, height in ((1280, 720), OLD_PROJECTOR, HALL):
        browser.look(width=width, height=height)
        eventually(lambda: browser.execute_script(FITS, card))
    check_looks(browser, axe, "the class, present", ((1280, 720), "dark"), (HALL, "light"))
    browser.look_as_before()
    assert browser.find(".segno").is_displayed()
    browser.find("[data-action=close-class]").click()
    assert not card.is_displayed()
    # By keyboard: what it covers has no focus, and a question comes to the front.
    for keys in ("1", Keys.ESCAPE):
        opener.send_keys(Keys.ENTER)
        for _ in range(4):
            assert not browser.execute_script(COVERED)
            ActionChains(browser).send_keys(Keys.TAB).perform()
        ActionChains(browser).send_keys(keys).perform()
        assert not card.is_displayed()
        assert browser.execute_script("return document.activeElement !== document.body")


def status_of(browser: Browser) -> str:
    return str(browser.find(".experiments [data-part=status]").text)


def test_start_for_all(start: Start, browser: Browser) -> None:
    """From its button to everybody's results; then it has ended for all."""
    server = start("serve.py", *ROOM)
    with LabPage(server.ws) as student, LabPage(server.ws) as gone:
        browser.visit(server, f"/?key={key_of(server)}")
        browser.find("[data-action=experiment][value=near]").click()
        button = browser.find("[data-action=start-for-all]")
        eventually(button.is_displayed)
        button.click()
        for page in (student, gone):
            run = page.wait_for("experiment")["run"]
        gone.close()
        eventually(lambda: "Predict now" in status_of(browser))
        browser.find(".prediction input[value=websocket]").click()
        student.wait_for("pace", "1 per s".__eq__)  # the teacher's page has begun to measure
        student.do("result", **result(run))
        eventually(lambda: browser.find(".experiments [data-part=result]").is_displayed())
        assert student.wait_for("experiment", lambda experiment: experiment is None) is None
        student.wait_for("pace", "every 0.2 s".__eq__)
        shown = browser.find("[data-field=run]").text
        for words in ("Which is soonest?", "Results of 1 page.", "Predicted: WebSocket × 1"):
            assert words in shown
    assert server.log == ""


def test_an_experiment_of_the_teachers_keeps_its_pace(room: Server, browser: Browser) -> None:
    """A new connection is a student's at first, which may not borrow: nothing is refused."""
    with LabPage(room.ws) as student:
        browser.visit(room, f"/?key={key_of(room)}")
        eventually(lambda: browser.control("change").is_enabled())
        begin(browser, "near", "websocket", seconds=600)
        student.wait_for("pace", "1 per s".__eq__)
        for script, pace in ((DISCONNECT, "every 0.2 s"), (CONNECT, "1 per s")):
            browser.execute_script(script)
            student.wait_for("pace", pace.__eq__)
        assert browser.notice == ""
        press(browser, "end")
        student.wait_for("pace", "every 0.2 s".__eq__)


def test_a_teacher_that_comes_late_borrows_the_pace(room: Server, browser: Browser) -> None:
    """For example after a reload: the page measures before it is the teacher's."""
    with LabPage(room.ws) as student, LabPage(room.ws) as teacher:
        teach(room, teacher)
        teacher.do("experiment", id="quiet")
        student.wait_for("experiment")
        time.sleep(10)  # for predictions
        browser.visit(room, f"/?key={key_of(room)}")
        student.wait_for("pace", "paused".__eq__)
        teacher.do("end")
        student.wait_for("pace", "every 0.2 s".__eq__)


#: The time for predictions has passed; what an experiment borrows is given back by a timer late.
HURRY = """
const { setTimeout, performance } = window;
const now = performance.now.bind(performance);
performance.now = () => now() + 10_000;
window.setTimeout = (call, wait, ...more) => setTimeout(call, wait === 5000 ? 1e9 : wait, ...more);
"""


def test_a_page_that_was_hidden_borrows_nothing(room: Server, browser: Browser) -> None:
    """Though an experiment for all keeps its pace a moment longer than the page measures."""
    with LabPage(room.ws) as student, LabPage(room.ws) as teacher:
        teach(room, teacher)
        browser.visit(room, f"/?key={key_of(room)}")
        eventually(lambda: browser.control("change").is_enabled())
        teacher.do("experiment", id="near")
        eventually(lambda: "Predict now" in status_of(browser))
        browser.execute_script(HURRY)
        student.wait_for("pace", "1 per s".__eq__)
        teacher.do("end")
        eventually(lambda: not browser.find(".experiments progress").is_displayed())
        with in_another_tab(browser):
            student.wait_for("pace", "every 0.2 s".__eq__)
        eventually(lambda: browser.find("[data-control=pace][aria-pressed=true]").text != "1 per s")
        student.clock()
        for _ in range(2):
            assert student.wait_for("pace") == "every 0.2 s"


def test_a_student_takes_part(room: Server, browser: Browser) -> None:
    """Also late, after a reload; and stops when the teacher ends it."""
    with LabPage(room.ws) as teacher:
        teach(room, teacher)
        browser.open(room.url)
        browser.execute_script("sessionStorage.clear()")  # the key of another test
        browser.visit(room)
        for _ in range(2):
            teacher.do("experiment", id="near")
            eventually(lambda: browser.find(".experiments .panel").is_displayed())
            assert browser.find(".experiments [data-part=title]").text == "Which is soonest?"
            assert not browser.find("[data-action=start-for-all]").is_displayed()
            eventually(lambda: browser.find(".experiments progress").is_displayed())
            browser.refresh()
        eventually(lambda: browser.find(".experiments progress").is_displayed())
        teacher.do("end")
        eventually(lambda: not browser.find(".experiments progress").is_displayed())


def test_a_student_is_moved_to_where_the_experiment_is(start: Start, browser: Browser) -> None:
    """And finds there that it has been started for all."""
    server = start("serve.py", *ROOM, "--far", "20")
    with LabPage(server.ws) as teacher:
        teach(server, teacher)
        browser.visit(server)
        teacher.do("experiment", id="payload")
        until_at(browser, "20 ms away")
        eventually(lambda: browser.find(".experiments progress").is_displayed())
        assert browser.find(".experiments [data-part=title]").text == "One trip or three?"
        teacher.wait_for("class", lambda room: room["pages"] == 1)
        teacher.do("end")


def test_a_class_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ARRIVAL", 1.0)
    found = bench.run(6, 3.0)
    assert (found["refused"], found["counted"], found["started_for"]) == (0, 6, 6)
    for place in ("near", "far"):
        assert set(found["late_ms"][place]) == {"longpoll", "poll", "websocket"}
    assert min(found["late_ms"]["far"]["websocket"]) > 100
    assert "WebSocket, from 200 ms away" in bench.as_table(found)
    assert "6 pages" in bench.sentences(found)
