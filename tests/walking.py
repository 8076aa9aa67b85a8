"""A class's hands on the tab “How it works”, which several browser tests share."""

from __future__ import annotations

import json


def open_walk(page, step: int = 1) -> None:
    page.get_by_role("tab", name="How it works").click()
    page.locator(".wk-tab[aria-selected=true]").wait_for()
    page.locator(f".wk-tab[data-step='{step}']").click()


def data(page, name: str):
    return json.loads(page.locator(".pf-walk").get_attribute(f"data-{name}"))


def looked_at(page) -> int:
    return int(page.locator(".pf-walk").get_attribute("data-image"))


def cell(page, number: int):
    return page.locator(f".wk-cell[data-cell='{number}']")


def turned(page, act) -> None:
    """Does something that the server answers, and waits for the answer."""
    before = page.locator(".pf-walk").get_attribute("data-turn")
    act()
    page.wait_for_function("(turn) => document.querySelector('.pf-walk').dataset.turn !== turn", arg=before)


def signed(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def read(text: str) -> float:
    return float(text.replace("−", "-"))


def part(page, name: str) -> None:
    """Opens a part of the tab."""
    turned(page, lambda: page.locator(f".wk-tools [data-part={name}]").click())
    page.locator(f".pf-walk[data-part={name}]").wait_for()
