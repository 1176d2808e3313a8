"""Somebody who has only a browser starts a run, and finds what it came to: in headless Chromium."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.tracking.accounts import Role
from tests.helpers.served import login, running

if TYPE_CHECKING:
    from tests.helpers.served import Servers

CHROMIUM = Path("/usr/bin/chromium")
MINUTES = 60_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}: apt install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, and offline: without the latter ones it looks for Google's servers all the time.
        found = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                "--disable-sync",
            ],
        )
        yield found
        found.close()


@pytest.fixture
def page(browser):
    credentials = login(Role.READER)
    context = browser.new_context(
        viewport={"width": 1300, "height": 1000},
        http_credentials={
            "username": credentials["MLFLOW_TRACKING_USERNAME"],
            "password": credentials["MLFLOW_TRACKING_PASSWORD"],
        },
    )
    found = context.new_page()
    found.set_default_timeout(10 * MINUTES)
    yield found
    context.close()


@pytest.fixture
def worker(servers: Servers, tmp_path: Path):
    command = ["prefect", "worker", "start", "--pool", "gpu"]
    with running(command, servers.ila.environment, tmp_path / "worker.log"):
        yield


def test_a_run_is_started_from_the_form_and_its_steps_are_found(servers, worker, page):
    fill_the_form(servers, page, "search", profile="smoke")
    watch(servers, page, submitted(page))
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("run-smoke").first.click()
    page.get_by_text("smoke, until search").first.wait_for()
    page.get_by_text("stage1 terse seed 0").first.wait_for()


def test_a_second_run_shows_cached_steps_and_its_tables(servers, worker, page):
    fill_the_form(servers, page, "search", profile="smoke")
    watch(servers, page, submitted(page))
    page.get_by_text("Subflow Runs").first.click()
    page.get_by_role("link", name="smoke-search").first.click()
    page.get_by_text("Task Runs", exact=True).first.click()
    page.get_by_text("Cached", exact=True).first.wait_for()
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text(re.compile("^ranking-")).first.click()
    page.get_by_text("Layers, most important first").first.wait_for()
    page.get_by_text("model.layers.").first.wait_for()


def test_mlflow_shows_the_step_and_leads_back_to_the_flow_run(servers, page):
    (table,) = servers.ask("artifacts", artifacts={"type": {"any_": ["markdown"]}}, limit=1)
    address = re.search(r"\((http[^)]*/#/experiments/\d+/runs/\w+)\)", table["data"])
    assert address, table["data"]
    page.goto(address[1])
    page.get_by_text("Computed for Prefect's flow run").first.wait_for()
    link = page.locator("a[href*='/runs/flow-run/']").first
    name, back = link.inner_text(), link.get_attribute("href")
    page.goto(back)
    page.get_by_text(name).first.wait_for()
    page.get_by_text("Completed", exact=True).first.wait_for()


def test_a_wrong_value_is_refused_by_the_form(servers, page):
    before = len(servers.ask("flow_runs"))
    fill_the_form(servers, page, "finetune", profile="smoke", ranking="../../etc")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text(re.compile("pattern|does not match", re.IGNORECASE)).first.wait_for()
    assert len(servers.ask("flow_runs")) == before


def test_our_report_opens_with_its_pictures(finished, page):
    (report,) = finished.home.glob("reports/*.html")
    page.goto(report.as_uri())
    page.get_by_role("heading").first.wait_for()
    broken = "() => [...document.images].filter(i => !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert page.locator("svg, img").count() >= 3


def fill_the_form(servers: Servers, page: Any, deployment: str, *, profile: str, **text: str):
    """Deployments -> its name -> Run -> Custom run, and the fields."""
    page.goto(f"{servers.prefect}/deployments")
    page.get_by_role("link", name=deployment, exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_text("a run profile that comes with ILA").wait_for()
    page.locator(".p-label").filter(has_text="profile").locator(".p-select-button__control").focus()
    page.keyboard.press("ArrowDown")
    page.locator(".p-select-option", has_text=profile).first.click()
    for name, value in text.items():
        field = page.locator(".p-label").filter(has_text=f"{name} (Optional)")
        field.locator("textarea").first.fill(value)


def submitted(page: Any) -> str:
    """The id of the flow run that the filled form creates."""
    with page.expect_response(re.compile("/create_flow_run$")) as queued:  # leaving would stop it
        page.get_by_role("button", name="Submit").click()
    assert queued.value.status == 201
    return str(queued.value.json()["id"])


def watch(servers: Servers, page: Any, run: str):
    """The page of that run once it has ended: before, drawing its graph takes most of a core."""
    page.goto("about:blank")
    ended = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}
    while not servers.ask("flow_runs", flow_runs={"id": {"any_": [run]}, "state": ended}):
        time.sleep(0.5)
    page.goto(f"{servers.prefect}/runs/flow-run/{run}")
    page.get_by_text("Completed", exact=True).first.wait_for()
