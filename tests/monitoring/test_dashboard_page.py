"""The page itself, in a real browser: it opens, moves, shows an outage and its healing, to everybody."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.monitoring._browser import PHONE, Browser
from tests.monitoring._processes import Process
from tests.monitoring._visitor import TOKEN
from tests.monitoring.conftest import StartProcess


@pytest.fixture
def shop(start_process: StartProcess) -> Process:
    """A shop with a dashboard at an address of its own."""
    return start_process("_shop", "orders", "--port", "0")


def address(shop: Process) -> str:
    """Where the page is."""
    host, port = shop.ready
    return f"http://{host}:{port}/"


def enter(browser: Browser, shop: Process) -> None:
    """Open the page, with the token behind the address, and wait until it shows something."""
    browser.open(f"{address(shop)}#token={TOKEN.replace(' ', '%20')}")
    browser.until(lambda: browser.find("#content").is_displayed(), "the page shows the runner")


def total(browser: Browser, name: str) -> int:
    """One of the numbers since the start."""
    pairs = browser.run(
        "return [...document.querySelectorAll('#totals > div')]"
        ".map(one => [...one.children].map(cell => cell.textContent))"
    )
    return int({cells[0]: cells[1] for cells in pairs}[name].replace(",", ""))


def test_the_door_asks_for_the_token(browser: Browser, shop: Process) -> None:
    browser.open(address(shop))
    assert browser.count("#content") == 0

    browser.find("#token").send_keys("not the token", Keys.ENTER)
    browser.until(lambda: "not the token" in browser.text("#note"), "the door says no")

    browser.find("#token").send_keys(TOKEN, Keys.ENTER)
    browser.until(lambda: browser.text("#name") == "orders", "the page shows the runner")

    browser.find("#leave").click()
    browser.until(lambda: browser.count("#token") == 1, "the door is shut again")


def test_a_token_behind_the_address_opens_the_door_and_vanishes(browser: Browser, shop: Process) -> None:
    enter(browser, shop)

    assert TOKEN.partition(" ")[0] not in browser.driver.current_url.replace("%20", " ")


def test_it_asks_nobody_else(browser: Browser, shop: Process) -> None:
    enter(browser, shop)
    browser.until(lambda: browser.run("return performance.getEntriesByType('resource').length") > 1, "it polls")

    asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")

    assert all(name.startswith(address(shop)) for name in asked)
    assert {re.sub(r"\?.*", "", name.removeprefix(address(shop))) for name in asked} == {"stats.json"}


def test_it_moves_by_itself(browser: Browser, shop: Process) -> None:
    enter(browser, shop)
    browser.run("window.stayed = true")

    for done in (7, 12):
        shop.tell("work", done)
        expected = {7: 7, 12: 19}[done]
        browser.until(lambda: total(browser, "Completed") == expected, f"{expected} are shown")  # noqa: B023

    browser.until(lambda: browser.find(".chart path.line").get_attribute("d"), "a line is drawn")
    assert browser.run("return window.stayed"), "it was not loaded again"
    assert browser.text("#pulse") == "Live"


def test_each_resource_is_a_cell_that_says_who_has_it(browser: Browser, shop: Process) -> None:
    enter(browser, shop)
    browser.until(lambda: browser.count("#cells [data-state=idle]") == 6, "six are idle")

    shop.tell("hold", 3)
    browser.until(lambda: browser.count("#cells [data-state=used]") == 3, "three are in use")
    assert browser.count("#cells [data-state=free]") == 2
    assert "in use\n3" in browser.text("#legend")

    browser.find("#cells [data-state=used]").click()
    note = browser.text("#cell-note")
    assert "in use for" in note
    assert "checkout" in note
    assert f"process {shop.pid}" in note

    shop.tell("release")
    browser.until(lambda: browser.count("#cells [data-state=used]") == 0, "none is in use")


def test_who_uses_a_resource_is_listed_with_the_place_where_it_waits(browser: Browser, shop: Process) -> None:
    shop.tell("hold", 1)
    enter(browser, shop)
    browser.until(lambda: browser.count("#uses li") == 1, "one use is listed")
    assert "checkout" in browser.text("#uses li")

    browser.find("#uses summary").click()
    browser.until(lambda: "in checkout" in browser.text("#uses pre"), "the stack is shown")
    before = browser.text("#uses .age")
    browser.until(lambda: browser.text("#uses .age") != before, "another poll came")
    assert browser.find("#uses pre").is_displayed(), "it stays open"


def test_an_outage_and_its_healing_show(browser: Browser, shop: Process) -> None:
    enter(browser, shop)
    browser.until(lambda: browser.count("#cells [data-state=idle]") == 6, "all is well")
    assert not browser.find("#banner").is_displayed()
    assert browser.text("#state") == "running"

    shop.tell("take_away")
    browser.until(lambda: browser.count("#cells [data-state=failing]") == 6, "all are backing off")
    browser.until(lambda: browser.find("#banner").get_attribute("data-level") == "bad", "the banner says so")
    assert "no resource could be made (ConnectionRefusedError)" in browser.text("#banner")
    assert "6 of 6 are missing" in browser.text("#banner")
    assert "hunter2" not in browser.driver.page_source
    browser.until(lambda: "Could not make a resource" in browser.text("#events"), "the event is listed")
    browser.until(lambda: "Backend down" in browser.text("#events"), "so is that it is down")
    browser.until(lambda: browser.count(".chart:first-child .bands rect") > 0, "the charts show when it was")

    shop.tell("give_back")
    browser.until(lambda: browser.count("#cells [data-state=idle]") == 6, "all are back")
    browser.until(lambda: browser.find("#banner").get_attribute("data-level") == "good", "the banner says so")
    assert "Healed: all 6 resources are back" in browser.text("#banner")
    browser.until(lambda: "Backend back" in browser.text("#events"), "the event is listed")
    assert browser.text("#state") == "running"


def test_waiting_tasks_show(browser: Browser, shop: Process) -> None:
    enter(browser, shop)

    shop.tell("hold", 9)

    browser.until(lambda: browser.text("#figures > div:nth-child(2) dd") == "5", "five wait")
    assert "the oldest for" in browser.text("#figures > div:nth-child(2)")
    assert browser.text("#figures > div:nth-child(1) dd") == "4 / 4"


def test_a_server_that_is_gone_is_missed(browser: Browser, shop: Process) -> None:
    enter(browser, shop)

    shop.kill()

    browser.until(lambda: browser.text("#pulse").startswith("No answer for"), "the page says so")
    browser.driver.get("about:blank")
    browser.complaints()  # of requests that failed, rightly


def test_what_others_named_is_text(browser: Browser, start_process: StartProcess) -> None:
    name = '<img src=x onerror="document.title=1">&lt;'
    shop = start_process("_shop", name, "--port", "0")
    shop.tell("hold", 1)
    enter(browser, shop)

    browser.until(lambda: browser.text("#name") == name, "the name is shown as it is")
    assert browser.count("img") == 0
    assert browser.driver.title == "Shop"


# -- everybody -------------------------------------------------------------------------------------------------------


def test_it_fits_a_phone(browser: Browser, shop: Process) -> None:
    shop.tell("hold", 9)
    enter(browser, shop)
    shop.tell("take_away")
    browser.resize(*PHONE, is_phone=True, scale=2)
    browser.until(lambda: browser.find("#banner").is_displayed(), "everything is on the page")

    wide = browser.run(
        "return [...document.querySelectorAll('body *')]"
        ".filter(one => one.getBoundingClientRect().right > innerWidth + 1"
        " && !one.closest('#runners, pre')).map(one => one.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert browser.run("return document.documentElement.scrollWidth") == PHONE[0]
    widths = browser.run("return [...document.querySelectorAll('.sheet')].map(one => one.offsetWidth).filter(Boolean)")
    assert len(widths) > 8
    assert min(widths) > 0.9 * PHONE[0], "one below another"
    small = browser.run(
        "return [...document.querySelectorAll('.tools button')].filter(one => one.offsetWidth < 40).map(one => one.id)"
    )
    assert small == []
    letters = browser.run(
        "return Math.min(...[...document.querySelectorAll('p, dt, dd, li, td, svg text')]"
        ".filter(one => one.textContent && one.getClientRects().length)"
        ".map(one => parseFloat(getComputedStyle(one).fontSize)))"
    )
    assert letters >= 11


CONTRAST = """
const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
const light = (rgb) => rgb.slice(0, 3).map((value) => value / 255)
  .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const color = parse(getComputedStyle(one).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const found = {};
for (const element of document.querySelectorAll("body *")) {
  const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!hasText || !element.getClientRects().length || element.closest("script, style, header")) continue;
  const style = getComputedStyle(element);
  const color = parse(element instanceof SVGElement ? style.fill : style.color);
  const [a, b] = [light(color), light(ground(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) found[`${element.tagName} ${element.id} ${element.textContent.slice(0, 20)}`] = ratio;
}
return found;
"""


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_every_text_has_enough_contrast(is_dark: bool, browser: Browser, shop: Process) -> None:
    enter(browser, shop)
    if is_dark:
        browser.prefer_dark()
    shop.tell("hold", 9)
    shop.tell("take_away")
    browser.until(lambda: browser.find("#banner").get_attribute("data-level") == "bad", "an outage is shown")
    browser.until(lambda: browser.count("#events li") > 1, "events are shown")

    assert browser.run("return document.documentElement.dataset.theme") == ("dark" if is_dark else "light")
    assert browser.run(CONTRAST) == {}


def test_the_theme_is_the_systems_until_one_is_chosen(browser: Browser, shop: Process) -> None:
    def theme() -> str:
        return str(browser.run("return document.documentElement.dataset.theme"))

    browser.open(address(shop))
    browser.prefer_dark()
    enter_with_form = browser.find("#token")
    enter_with_form.send_keys(TOKEN, Keys.ENTER)
    browser.until(lambda: browser.text("#name") == "orders", "the page shows the runner")
    assert theme() == "dark"

    browser.press("t")
    assert theme() == "light"
    browser.driver.refresh()
    browser.until(lambda: browser.find("#content").is_displayed(), "the page is back")
    assert theme() == "light", "the choice stays"
    browser.press("t")
    browser.press("t")
    assert theme() == "dark", "the system's again"


def test_it_can_be_used_by_keyboard(browser: Browser, shop: Process) -> None:
    enter(browser, shop)
    browser.until(lambda: browser.count("#cells button") == 8, "the cells are there")

    def focused() -> Any:
        return browser.run(
            "const one = document.activeElement; return one.id || one.getAttribute('aria-label') || one.tagName"
        )

    browser.press(Keys.TAB)
    assert browser.run("return document.activeElement.className") == "skip"
    browser.press("r")
    first = focused()
    assert first.startswith("Resource 1 ")
    browser.press(Keys.ARROW_RIGHT)
    assert focused().startswith("Resource 2 ")
    assert browser.text("#cell-note") == focused()
    browser.press(Keys.END)
    assert focused() == "Room for one more"
    browser.press(Keys.ARROW_LEFT, Keys.HOME)
    assert focused() == first
    assert browser.run("return document.querySelectorAll('#cells [tabindex=\"0\"]').length") == 1

    browser.press("?")
    assert browser.find("#keys").is_displayed()
    browser.press(Keys.ESCAPE)
    assert not browser.find("#keys").is_displayed()


def test_it_can_be_frozen_to_be_read(browser: Browser, shop: Process) -> None:
    enter(browser, shop)
    browser.press("f")
    assert browser.text("#pulse") == "Frozen"
    asked = browser.run("return performance.getEntriesByType('resource').length")
    shop.tell("work", 5)
    browser.run("return new Promise(resolve => setTimeout(resolve, 1500))")
    assert browser.run("return performance.getEntriesByType('resource').length") <= asked + 1
    assert total(browser, "Completed") == 0

    browser.press("f")
    browser.until(lambda: total(browser, "Completed") == 5, "it goes on")


def test_everything_that_can_be_pressed_has_a_name(browser: Browser, shop: Process) -> None:
    enter(browser, shop)

    nameless = browser.run(
        "return [...document.querySelectorAll('button, input, summary, svg[role=img]')].filter(one =>"
        " !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length)).map(one => one.outerHTML)"
    )

    assert nameless == []
    assert browser.run("return document.documentElement.lang") == "en"
    headings = browser.run("return [...document.querySelectorAll('h1, h2')].map(one => one.tagName)")
    assert headings.count("H1") == 1


# -- commands --------------------------------------------------------------------------------------------------------


def test_who_may_command_pauses_and_resumes(browser: Browser, shop: Process) -> None:
    enter(browser, shop)

    browser.find("#pause").click()
    browser.until(lambda: browser.text("#state") == "paused", "it is shown as paused")
    assert shop.tell("state") == "paused"
    assert browser.text("#pause") == "Resume"

    browser.find("#pause").click()
    browser.until(lambda: shop.tell("state") == "running", "it runs again")


def test_a_resize_is_asked_for_and_what_cannot_be_is_explained(browser: Browser, shop: Process) -> None:
    enter(browser, shop)
    browser.find("#resize").click()
    browser.find("[name=worker_count]").send_keys("6")
    browser.find("#ask-yes").click()
    browser.until(lambda: browser.text("#figures > div:nth-child(1) dd") == "0 / 6", "there are six workers")

    browser.find("#resize").click()
    browser.find("[name=max_resources]").send_keys("1")
    browser.find("#ask-yes").click()
    browser.until(lambda: "Could not resize" in browser.text("#ask-title"), "it says why not")
    assert "max_resources" in browser.text("#ask-text")
    browser.press(Keys.ESCAPE)
    assert all("400" in complaint for complaint in browser.complaints())


def test_recycling_is_asked_twice(browser: Browser, shop: Process) -> None:
    enter(browser, shop)
    browser.until(lambda: browser.count("#cells [data-state=idle]") == 6, "six are idle")

    browser.find("#recycle").click()
    browser.press(Keys.ESCAPE)
    assert total(browser, "Resources destroyed") == 0

    browser.find("#recycle").click()
    browser.find("#ask-yes").click()
    browser.until(lambda: total(browser, "Resources destroyed") == 6, "all are replaced")


def test_who_may_only_look_has_no_buttons_for_it(browser: Browser, start_process: StartProcess) -> None:
    shop = start_process("_shop", "orders", "--port", "0", "--options", json.dumps({"control": False}))
    enter(browser, shop)

    assert not browser.find("#controls").is_displayed()
