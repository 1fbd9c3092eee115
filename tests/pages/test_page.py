"""The page of ``--isolate-html`` in Chromium: what is seen, clicked, pressed and touched, and that it asks nobody for anything."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_isolate.report.files import write
from pytest_isolate.report.html.page import page
from tests.support.capabilities import requires
from tests.support.documents import HOSTILE, compared, run_document

if TYPE_CHECKING:
    from tests.support.browser import Browser

pytestmark = requires("chromium")

ENTER, SPACE, ESCAPE, TAB, DOWN, UP, END, HOME, RIGHT = (
    "\ue007",
    " ",
    "\ue00c",
    "\ue004",
    "\ue015",
    "\ue013",
    "\ue010",
    "\ue011",
    "\ue014",
)
PAGE_DOWN = "\ue00f"
PLOTS = ("timeline", "memory", "cpu")

Show = Callable[..., "Browser"]


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    from tests.support.browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Path]:
    directory = tmp_path_factory.mktemp("pages")

    def make(document: dict[str, Any]) -> Path:
        path = directory / f"{len(list(directory.iterdir()))}.html"
        write(str(path), page(document))
        return path

    return make


@pytest.fixture
def show(tab: Browser, pages: Callable[[dict[str, Any]], Path]) -> Iterator[Show]:
    """Opens the page of a document. In the end, whatever was done with it, its console is empty."""

    def opened(document: dict[str, Any], **how: Any) -> Browser:
        tab.open(pages(document), **how)
        return tab

    yield opened
    assert tab.console() == []
    tab.run("localStorage.clear()")


def unknown() -> dict[str, Any]:
    """A run of whose tests nothing is known but their outcomes, by a version that wrote no more than it had to."""
    document = run_document(3)
    for test in document["tests"]:
        for name in ("samples", "budget", "started", "worker"):
            test.pop(name, None)
        test |= {"usage": {}, "spec": {}}
    return document | {"totals": document["totals"] | {"usage": {}}, "capabilities": []}


def one_failed() -> dict[str, Any]:
    """Thirty tests, the tenth of which has failed, and nothing else about it is special."""
    document = run_document(30, sampled=0, workers=2)
    for number, test in enumerate(document["tests"]):
        test |= {"outcome": "failed" if number == 9 else "passed", "problems": []}
        test["usage"]["wall_seconds"] = max(0.05, test["usage"]["wall_seconds"])
        test.pop("budget", None)
    document["tests"][9]["usage"]["cpu_seconds"] = 0.9  # apart from the others
    return document


def hostile() -> dict[str, Any]:
    document = run_document(len(HOSTILE))
    for test, nodeid in zip(document["tests"], HOSTILE, strict=True):
        test["nodeid"] = nodeid
        test["problems"] = [{"kind": "<b>", "text": nodeid, "failed": True}]
        test["contacts"] = {
            "reached": [["tcp", "</script>", 1]],
            "refused": [],
            "unanswered": [["udp", "::1", 53]],
            "more": 3,
            "incomplete": True,
        }
        test["weakened"] = test["notes"] = [nodeid]
    document["run"] |= {
        "rootdir": "/srv/<i>\udcff",
        "arguments": ["-k", "</script><script>window.pwned = 1</script>"],
        "commit": "<b>",
    }
    return compared(document) | {"notes": ["<script>window.pwned = 1</script>"], "weakened": {"<b>": 2}}


VARIANTS: dict[str, Callable[[], dict[str, Any]]] = {
    "everything": lambda: compared(run_document(60)),
    "empty": lambda: run_document(0),
    "one": lambda: run_document(1, workers=1),
    "unknown": unknown,
    "hostile": hostile,
}


def fits(tab: Browser, width: int) -> bool:
    """Whether nothing of the page is wider than the window, which is as wide as that."""
    size = "const root = document.scrollingElement; return [root.scrollWidth, root.clientWidth]"
    return bool(tab.run(size) == [width, width])


@pytest.mark.parametrize("variant", VARIANTS)
def test_page_asks_for_nothing_but_itself_and_fits_every_width(show: Show, variant: str) -> None:
    document = VARIANTS[variant]()
    details_width = "const {scrollWidth, clientWidth} = document.getElementById('details'); return scrollWidth - clientWidth"
    for opened, others in ((360, ()), (1440, (800,))):
        tab = show(document, width=opened, dark=opened == 360, finger=opened == 360)
        assert [url.partition(":")[0] for url in tab.requests()] == ["file"]
        assert fits(tab, opened)
        if document["tests"]:
            tab.click("#rows tr")
            assert tab.find("#details").is_displayed()
        for width in (opened, *others):
            tab.resize(width)
            tab.until(partial(fits, tab, width))
            assert tab.run(details_width) == 0


def test_page_forbids_itself_requests_foreign_scripts_and_eval(show: Show, tab: Browser) -> None:
    show(run_document(1))
    tab.run(
        """
        window.refused = [];
        document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
        fetch("http://127.0.0.1:9/").catch(() => null);
        const script = document.createElement("script");
        script.textContent = "window.pwned = 1";
        document.body.append(script);
        const image = document.createElement("img");
        image.src = "http://127.0.0.1:9/";
        document.body.append(image);
        document.body.insertAdjacentHTML("beforeend", "<a href='#' onclick='window.pwned = 1'>x</a>");
        document.body.lastChild.click();
        """
    )
    tab.until(lambda: set(tab.run("return refused")) >= {"connect-src", "script-src-elem", "img-src", "script-src-attr"})
    assert tab.run("return window.pwned ?? null") is None
    assert all("Content Security Policy" in line for line in tab.console())


def test_hostile_names_are_text(show: Show) -> None:
    tab = show(hostile())
    assert tab.run("return window.pwned ?? null") is None
    assert tab.run("return document.scripts.length") == 4
    assert tab.run("return document.querySelectorAll('b:not(#counts b), img, i:not(.swatch)').length") == 0
    shown = tab.run(
        "return [...document.querySelectorAll('#rows .nodeid')].map((each) => [...each.textContent].map((part) => part.codePointAt(0)))"
    )
    assert shown == [[ord(part) for part in nodeid] for nodeid in HOSTILE]
    for number in range(len(HOSTILE)):
        tab.run("document.querySelectorAll('#rows tr')[arguments[0]].click()", number)
        assert (
            tab.run("return [...document.getElementById('details-title').textContent].map((part) => part.codePointAt(0))")
            == shown[number]
        )
    assert "udp [::1]:53" in tab.find("#details").text
    # Found by what it is, not by what it would be as markup.
    tab.find("#query").send_keys("</script><script>")
    tab.until(lambda: tab.find("#shown").text.startswith("1 of"))


def column(tab: Browser, key: str) -> list[str]:
    return tab.texts(f"#rows [data-key='{key}']")


def rows(tab: Browser) -> list[int]:
    return [
        int(index)
        for index in tab.run("return [...document.querySelectorAll('#rows [data-index]')].map((each) => each.dataset.index)")
    ]


def test_headings_sort_by_click_and_by_key_and_say_so(show: Show) -> None:
    document = run_document(40)
    del document["tests"][5]["usage"]["cpu_seconds"]
    tab = show(document)

    def cpu(index: int) -> float | None:
        return document["tests"][index]["usage"].get("cpu_seconds")  # type: ignore[no-any-return]

    expected = sorted(cpu(index) for index in range(40) if index != 5)  # type: ignore[type-var]
    tab.click("[data-key='cpu'] button")
    assert tab.find("th[data-key='cpu']").get_attribute("aria-sort") == "descending"
    assert [cpu(index) for index in rows(tab)] == [*reversed(expected), None]
    tab.press(ENTER)  # the heading has the focus still
    assert tab.find("th[data-key='cpu']").get_attribute("aria-sort") == "ascending"
    assert [cpu(index) for index in rows(tab)] == [*expected, None]
    tab.press(SPACE)
    assert tab.find("th[data-key='cpu']").get_attribute("aria-sort") == "none"
    assert rows(tab) == list(range(40))
    tab.click("[data-key='nodeid'] button")
    assert tab.find("th[data-key='nodeid']").get_attribute("aria-sort") == "ascending"
    assert column(tab, "nodeid")[1].startswith(document["tests"][1]["nodeid"])  # [1], [2], … [10]: as people count


def test_filters_and_search_narrow_the_table_and_the_plots(show: Show) -> None:
    document = run_document(200)
    tab = show(document)
    tests = document["tests"]
    before = len(tab.places("#memory .canvas", "--passed"))
    tab.click("#outcomes .tick:has([value='failed'])")
    failed = [number for number, test in enumerate(tests) if test["outcome"] == "failed"]
    assert rows(tab) == failed
    assert tab.find("#shown").text == f"{len(failed)} of 200 tests"
    assert tab.find("#shown").get_attribute("role") == "status"
    tab.until(lambda: len(tab.places("#memory .canvas", "--passed")) < before / 5)
    tab.click("#clear")
    assert len(rows(tab)) == 50
    assert tab.find("#shown").text == "200 tests"
    tab.run("document.getElementById('worker').focus()")
    tab.press("gw2")
    tab.press(ENTER)
    assert tab.find("#shown").text == f"{sum(test['worker'] == 'gw2' for test in tests)} of 200 tests"
    tab.click("#kinds .tick:has([value='LEAK'])")
    assert rows(tab) == [
        n for n, test in enumerate(tests) if test["worker"] == "gw2" and any(p["kind"] == "leak" for p in test["problems"])
    ]
    assert rows(tab)
    tab.click("#clear")
    tab.find("#query").send_keys("MODULE_3 [7]")
    tab.until(lambda: rows(tab) == [127])
    tab.find("#query").send_keys("no such test")
    tab.until(lambda: tab.texts("#rows tr") == ["No test matches."])


def selected(tab: Browser) -> list[int]:
    return [
        int(index)
        for index in tab.run(
            "return [...document.querySelectorAll('#rows [aria-selected=true]')].map((each) => each.dataset.index)"
        )
    ]


def marks(tab: Browser) -> list[bool]:
    """Whether the selected test's ring is in each plot."""
    return [len(tab.places(f"#{plot} .canvas", "--accent")) > 20 for plot in PLOTS]


def test_row_that_is_clicked_is_marked_in_every_plot_and_brought_into_view(show: Show) -> None:
    tab = show(one_failed(), height=700)
    assert marks(tab) == [False, False, False]
    tab.click("#rows tr:nth-child(10)")
    assert selected(tab) == [9]
    assert tab.find("#details-title").text == one_failed()["tests"][9]["nodeid"]
    top, bottom = tab.run(
        "const {top, bottom} = document.querySelector('#timeline .canvas').getBoundingClientRect(); return [top, bottom]"
    )
    assert 0 <= top < bottom <= 700
    assert marks(tab) == [True, True, True]
    # The ring is around the mark of this test: the only red in the plot is inside it.
    for plot in PLOTS:
        ring, red = tab.places(f"#{plot} .canvas", "--accent"), tab.places(f"#{plot} .canvas", "--failed")
        for axis in (0, 1):
            middle = sum(place[axis] for place in ring) / len(ring)
            assert min(place[axis] for place in red) - 9 <= middle <= max(place[axis] for place in red) + 9, plot
    tab.press(ESCAPE)
    assert marks(tab) == [False, False, False]
    assert not tab.find("#details").is_displayed()


@pytest.mark.parametrize("plot", PLOTS)
def test_mark_that_is_clicked_selects_its_row(show: Show, plot: str) -> None:
    tab = show(one_failed())
    red = tab.places(f"#{plot} .canvas", "--failed")
    x, y = red[len(red) // 2]
    tab.hover(x, y)
    tab.until(lambda: tab.find("#tip").is_displayed())
    assert one_failed()["tests"][9]["nodeid"].rpartition("/")[2] in tab.find("#tip").text
    tab.click_at(x, y)
    tab.until(lambda: selected(tab) == [9])
    assert tab.find("#details-title").text == one_failed()["tests"][9]["nodeid"]


def test_everything_works_with_a_keyboard_alone(show: Show) -> None:
    document = one_failed()
    tab = show(document)
    tab.press(TAB)
    assert tab.focused().text == "Skip to the table of tests"
    assert tab.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press(ENTER)
    for _ in range(40):
        tab.press(TAB)
        if tab.focused().tag_name == "tr":
            break
    assert tab.focused().get_attribute("data-index") == "0"
    assert tab.run(
        "return [getComputedStyle(document.activeElement).outlineStyle, document.activeElement.matches(':focus-visible')]"
    ) == ["solid", True]
    tab.press(DOWN, DOWN, DOWN, UP)
    assert tab.focused().get_attribute("data-index") == "2"
    tab.press(END)
    assert tab.focused().get_attribute("data-index") == "29"
    tab.press(HOME, PAGE_DOWN)
    assert tab.focused().get_attribute("data-index") == "10"
    tab.press(HOME, DOWN, ENTER)
    assert selected(tab) == [1]
    assert tab.find("#details").is_displayed()
    assert tab.focused().get_attribute("data-index") == "1"
    # From the row into the details, and on to the next test.
    tab.run("document.getElementById('close').focus()")
    tab.press(TAB, ENTER)
    assert selected(tab) == [0]
    tab.press(ESCAPE)
    assert selected(tab) == []
    assert tab.focused().get_attribute("data-index") == "0"
    reachable = tab.run(
        """
        const names = (each) => each.getAttribute("aria-label") || each.textContent.trim() || each.closest("label")?.textContent.trim();
        return [...document.querySelectorAll("button, input, select, [tabindex='0']")].filter((each) => !names(each)).length
        """
    )
    assert reachable == 0


def test_roles_and_labels_say_what_the_pictures_show(show: Show) -> None:
    tab = show(compared(run_document(60)))
    for plot in (*PLOTS, "comparison"):
        place = tab.find(f"#{plot} .canvas")
        assert place.get_attribute("role") == "img"
        assert "The table below has the same" in (place.get_attribute("aria-label") or "")
    table = tab.find("#table")
    assert (table.get_attribute("role"), table.get_attribute("aria-rowcount")) == ("grid", "61")
    assert tab.run(
        "return [...document.querySelectorAll('#rows tr')].map((each) => Number(each.getAttribute('aria-rowindex')))"
    ) == list(range(2, 52))
    assert tab.run("return document.querySelectorAll('#rows [tabindex=\"0\"]').length") == 1


def test_zoom_by_buttons_moves_the_plot_and_comes_back(show: Show) -> None:
    tab = show(one_failed())
    reset = "#timeline .zoom button:last-child"
    assert not tab.find(reset).is_enabled()
    before = len(tab.places("#timeline .canvas", "--failed"))
    tab.click("#rows tr:nth-child(10)")
    for _ in range(2):
        tab.click("#timeline [aria-label='Zoom in']")
    assert tab.find(reset).is_enabled()
    # The selected test stays in the middle.
    tab.until(lambda: len(tab.places("#timeline .canvas", "--failed")) > before * 2)
    tab.click(reset)
    assert not tab.find(reset).is_enabled()
    # With the mouse: a stretch around the only red.
    red = tab.places("#timeline .canvas", "--failed")
    left, right, y = min(red)[0], max(red)[0], red[0][1]
    tab.drag(left - 5, right + 5, y)
    tab.until(lambda: len(tab.places("#timeline .canvas", "--failed")) > before * 2)
    assert tab.find(reset).is_enabled()


def test_light_and_dark_follow_the_system_until_somebody_chooses(show: Show, tab: Browser) -> None:
    show(run_document(20), dark=True)
    background = "return getComputedStyle(document.body).backgroundColor"
    dark = tab.run(background)
    assert len(tab.places("#memory .canvas", "--passed")) > 100
    tab.scheme(dark=False)
    light = tab.run(background)
    assert dark != light
    # The plots too: the colours are those of the theme that now holds.
    tab.until(lambda: len(tab.places("#memory .canvas", "--passed")) > 100)
    tab.run("document.querySelector('[name=theme]:checked').focus()")
    tab.press(RIGHT, RIGHT)
    assert tab.find("[name=theme][value=dark]").is_selected()
    assert tab.run(background) == dark
    tab.driver.refresh()
    tab.until(lambda: tab.run("return document.documentElement.dataset.ready") == "true")
    assert tab.run(background) == dark


def test_finger_opens_a_test_and_scrolls_over_plots(show: Show) -> None:
    tab = show(compared(run_document(60)), width=360, height=740, finger=True)
    assert tab.run("return matchMedia('(pointer: coarse)').matches")
    tab.tap("#rows tr:nth-child(3)")
    tab.until(lambda: selected(tab) == [2])
    assert tab.find("#details").is_displayed()
    tab.tap("#close")
    tab.until(lambda: not tab.find("#details").is_displayed())
    touch = "return getComputedStyle(document.querySelector('#timeline .bk-Figure').shadowRoot.querySelector('.bk-Canvas').shadowRoot.querySelector('.bk-events')).touchAction"
    assert tab.run(touch) == "auto"


def test_details_have_everything_that_the_document_says_of_a_test(show: Show) -> None:
    document = compared(run_document(60))
    test = document["tests"][0]
    test["spec"] |= {"env": [["A", "1"]], "memory": 64 << 20, "net": "bridge", "budget": {"memory": 48 << 20, "wall": 2.5}}
    test["contacts"] = {"reached": [["tcp", "10.0.0.2", 80]], "refused": [], "unanswered": [], "more": 0, "incomplete": False}
    test["problems"] = [{"kind": "oom", "text": "used 64.0 of 64 MiB\nkilled python", "failed": True}]
    tab = show(document)
    tab.click("#rows tr")
    tab.until(lambda: len(tab.all("#details .canvas")) == 2)
    text = tab.find("#details").text
    for part in (
        "used 64.0 of 64 MiB\nkilled python",
        "A=1",
        "memory 48 MiB, wall 2.5 s",
        "64 MiB",
        "reached: tcp 10.0.0.2:80",
        "OOM kill",
        "throttled",
        "cap 50 %",
        "within",
        "+50 %",
        "grown",
    ):
        assert part in text
    tab.until(lambda: len(tab.places("#over-memory .canvas", "--failed")) > 20)  # the kill
    assert len(tab.places("#over-cpu .canvas", "--warn")) > 20  # held back
    assert len(tab.places("#over-memory .canvas", "--memory")) > 50
    labels = [each.get_attribute("aria-label") or "" for each in tab.all("#details .canvas")]
    assert "1 OOM kill seen" in labels[0]
    assert "throttled in 1 interval" in labels[1]


def test_comparison_shows_one_figure_at_a_time_and_what_is_gone(show: Show) -> None:
    document = compared(run_document(60))
    tab = show(document)
    assert tab.texts("#comparison option") == ["memory peak", "CPU time, user and system"]
    label = "return document.querySelector('#comparison .canvas').getAttribute('aria-label')"
    assert tab.run(label).startswith("Change of CPU time, user and system against the baseline in 60 tests, from +50 %")
    assert tab.find("#gone summary").text == "1 test of the baseline is not in this run"
    for part in (
        "of 20 Sept 2026",
        "commit fedcba987654",
        "The machines differ: kernel 6.1.0 → 6.18.0.",
        "Because of that not compared: instructions executed.",
        "1 grown beyond their limit",
    ):
        assert part in tab.find("#comparison").text
    assert "1 test of the baseline ran and didn't pass." in tab.find("#comparison").text
    tab.run("document.querySelector('#comparison select').focus()")
    tab.until(lambda: len(tab.places("#comparison .canvas", "--failed")) > 50)  # beyond its limit, so it is shown first
    tab.press(UP)
    tab.until(lambda: tab.run(label).startswith("Change of memory peak against the baseline in 59 tests, from +50 %"))
    tab.until(lambda: len(tab.places("#comparison .canvas", "--failed")) == 0)
    tab.click("[data-key='change'] button")
    assert rows(tab)[0] == 0
    tab.click("#rows tr")
    text = tab.find("#details").text
    for part in ("exceeded", "limit 20%", "Used, last of 3 runs"):
        assert part in text
    wall = 1000 * document["tests"][0]["usage"]["wall_seconds"]
    assert f"{wall / 2:.3g} ms to {wall:.3g} ms" in text


def test_growth_from_nothing_beyond_its_limit_is_the_gravest(show: Show) -> None:
    document = compared(run_document(10))
    document["comparison"]["tests"].append(
        {
            "nodeid": document["tests"][7]["nodeid"], "figure": "net_tx", "before": 0, "after": 4096, "change": None, "noise": None,
            "verdict": "grown", "limit": "1KiB", "exceeded": True,
        }
    )  # fmt: skip
    tab = show(document)
    tab.click("[data-key='change'] button")
    assert rows(tab)[:2] == [7, 0]
    assert column(tab, "change")[0] == "net_tx from 0"
    tab.click("#rows tr")
    assert "from 0 limit 1KiB" in tab.find("#details").text.replace("\n", " ")


def test_run_in_short_says_how_it_ended_on_what_and_with_what(show: Show) -> None:
    document = run_document(60)
    document["run"] |= {"interrupted": True, "exit_status": 2}
    tab = show(document)
    text = tab.find("body").text
    assert "This run was stopped before its end: tests may be missing." in text
    assert "pytest -n 4 --isolate-all -k 'not slow'" in text
    for part in (
        "0123456789ab",
        "2, interrupted",
        "/home/you/project",
        "55 passed" if "passed" in text else "",
        "3 without a sandbox",
        "builder-7",
        "6.18.0",
        "v2: cpu, io, memory, pids",
        "systemd-run --user --scope -p Delegate=yes pytest",
    ):
        assert part in text or part.endswith("passed")
    assert sum(map(int, [each.split()[0] for each in tab.texts("#counts li:not(.plain)")])) == sum(
        document["totals"]["outcomes"].values()
    )


def test_five_thousand_tests_are_sorted_searched_and_paged(show: Show) -> None:
    document = run_document(5000)
    tab = show(document)
    walls = sorted((test["usage"]["wall_seconds"] for test in document["tests"]), reverse=True)
    tab.click("[data-key='wall'] button")
    assert [document["tests"][index]["usage"]["wall_seconds"] for index in rows(tab)] == walls[:50]
    assert tab.find("#pages-above span").text == "Page 1 of 100"
    tab.click("#pages-below [aria-label='Last page']")
    assert [document["tests"][index]["usage"]["wall_seconds"] for index in rows(tab)] == walls[-50:]
    tab.find("#query").send_keys("module_124")
    tab.until(lambda: tab.find("#shown").text == "40 of 5,000 tests")
    tab.click("#rows tr")
    assert marks(tab) == [True, True, True]


def test_every_attempt_is_a_row(show: Show) -> None:
    document = run_document(2, workers=1)
    first, second = copy.deepcopy(document["tests"])
    second |= {"nodeid": first["nodeid"], "attempt": 2, "outcome": "passed"}
    first |= {"outcome": "rerun", "attempt": 1}
    document["tests"] = [first, second]
    tab = show(document)
    assert [text.endswith(("attempt 1sampled", "attempt 2sampled")) for text in column(tab, "nodeid")] == [True, True]
