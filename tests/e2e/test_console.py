"""The console in a browser: Debian's Chromium, or the one that TEST_CHROMIUM names, driven by Playwright.

If LIRF_SCREENSHOTS names a folder, pictures of the pages go there. The README shows those in docs/images.
"""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from app.access.service import Role
from app.certificates.signatures import verified
from demo.digits import AUGMENTATION, CLASSES, PREPROCESSING, SPEC, Digits, write_weights
from lirf_core.network import SplitNetwork
from tests.app.conftest import Service
from worker.examination import examine

CHROMIUM = os.environ.get("TEST_CHROMIUM") or shutil.which("chromium")
BROWSERS = [CHROMIUM] if CHROMIUM else []
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = os.environ.get("LIRF_SCREENSHOTS")
WIDE, NARROW = {"width": 1200, "height": 800}, {"width": 380, "height": 780}

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.parametrize("browser", BROWSERS, indirect=True, ids=["chromium"] if BROWSERS else []),
]


@pytest.fixture(scope="module")  # not of the session: Playwright keeps an event loop in this thread
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=request.param, args=SWITCHES)
        yield launched
        launched.close()


class Visitor:
    """A person at the console. Complaints of the browser and serious findings of axe are faults."""

    def __init__(self, browser: Browser, service: Service, name: str, *roles: Role, scheme: str = "light") -> None:
        self.complaints = list[str]()
        context = browser.new_context(base_url=service.url, viewport=WIDE, color_scheme=scheme)  # type: ignore[arg-type]
        self.page: Page = context.new_page()
        self.page.on(
            "console", lambda message: self.complaints.append(message.text) if message.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto("/console/audit")
        self.page.get_by_label("API key").fill(service.key_of(name, *roles))
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("button", name="Sign out")).to_be_visible()

    def look(self, name: str, is_kept: bool = False) -> None:
        """Check accessibility, the width on a telephone, and the browser's complaints; take pictures."""
        violations = Axe().run(self.page).response["violations"]
        serious = [one for one in violations if one["impact"] in ("serious", "critical")]
        assert not serious, [(one["id"], one["nodes"][0]["html"], one["nodes"][0]["failureSummary"]) for one in serious]
        if SCREENSHOTS and is_kept:
            self.page.screenshot(path=Path(SCREENSHOTS) / f"console-{name}.png", full_page=True)
        self.page.set_viewport_size(NARROW)  # type: ignore[arg-type]
        assert self.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], name
        if SCREENSHOTS and is_kept:
            self.page.screenshot(path=Path(SCREENSHOTS) / f"console-{name}-narrow.png")
        self.page.set_viewport_size(WIDE)  # type: ignore[arg-type]
        assert self.complaints == [], name

    def open(self, summary: str) -> None:
        self.page.locator("summary", has_text=re.compile(f"^{summary}$")).first.click()


def digits_model(service: Service, digits: Digits, network: SplitNetwork, folder: Path) -> str:
    """Register a model that reads digits and queue a deposit of 0, 1 and 2. Returns the deposit's id."""
    service.operator.register_model(
        "digits",
        architecture={"name": SPEC.name, "width": SPEC.width},
        classes=CLASSES,
        preprocessing={"height": 16, "width": 16, "mean": list(PREPROCESSING.mean), "std": list(PREPROCESSING.std)},
    )
    service.operator.put_weights("digits", write_weights(folder / "digits.safetensors", network))
    held_out = digits.write_zip(folder / "evaluation.zip", digits.held_out)
    service.operator.upload_dataset("digits", held_out, purpose="evaluation")
    images = digits.write_zip(folder / "deposit.zip", digits.of_classes(digits.training, [0, 1, 2]))
    dataset = service.operator.upload_dataset("digits", images)
    augmentation = {"crop_padding": AUGMENTATION.crop_padding, "horizontal_flip": False}
    config = {"epochs": 8, "batch_size": 32, "learning_rate": 0.01, "proxies": 100, "augmentation": augmentation}
    reason = "the licence for 0 to 2 ended"
    return service.operator.request_deposit("digits", dataset["id"], reason=reason, config=config)["id"]


def test_deposit_is_watched_withdrawn_tried_approved_and_purged(
    service: Service, browser: Browser, digits: Digits, digits_network: SplitNetwork, tmp_path: Path
) -> None:
    deposit = digits_model(service, digits, digits_network, tmp_path)
    me = Visitor(browser, service, "ada", Role.ADMINISTRATOR)
    page = me.page
    expect(page.get_by_role("heading", name="Audit")).to_be_visible()  # signing in leads back to the requested page
    page.goto(f"/console/deposits/{deposit}")
    expect(page.get_by_text("Queued: waiting for a worker")).to_be_visible()
    worker = threading.Thread(target=service.work, args=(deposit,))
    worker.start()
    expect(page.locator(".curve canvas")).to_be_visible(timeout=120_000)
    expect(page.get_by_text(re.compile(r"Training, epoch \d of 8"))).to_be_visible()
    me.look("training")
    expect(page.get_by_role("heading", name="What it forgot")).to_be_visible(timeout=180_000)  # by itself
    worker.join()
    expect(page.get_by_role("row", name=re.compile("^target")).first).to_contain_text(" %")
    expect(page.locator(".curve canvas")).to_be_visible()
    expect(page.get_by_text("Waiting for a worker.")).to_be_visible()
    [queued] = service.reader.evidence_of(deposit)
    examiner = threading.Thread(target=examine, args=(service.worker, queued["id"]))
    examiner.start()
    expect(page.get_by_text(re.compile(r"Examining: \w+, \d of 5"))).to_be_visible(timeout=120_000)
    expect(page.get_by_role("heading", name="Last-layer features")).to_be_visible(timeout=300_000)  # by itself
    examiner.join()
    expect(page.get_by_role("img", name=re.compile("^t-SNE"))).to_have_count(4)
    me.look("deposit", is_kept=True)
    with page.expect_download() as download:
        page.get_by_role("link", name="PDF").click()
    key = load_pem_public_key(service.reader.certificate_key().encode())
    assert isinstance(key, Ed25519PublicKey)
    verified(download.value.path().read_bytes(), key)

    page.get_by_role("link", name="digits").click()
    expect(page.locator(".tile.deposited")).to_have_count(3)
    me.open("Withdraw")
    page.get_by_label("0, 1, 2").check()
    page.get_by_label("For whom").fill("the fair")
    page.locator("#reason").fill("licensed for a week")
    page.get_by_role("button", name="Withdraw").click()
    expect(page.locator(".tile.withdrawn")).to_have_count(3)
    [zero, *_] = digits.of_classes(digits.held_out, [0])
    Image.fromarray(digits.images[zero]).save(tmp_path / "zero.png")
    page.get_by_label("Image (PNG or JPEG)").set_input_files(tmp_path / "zero.png")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".answer")).to_have_count(2)
    served, target = page.locator(".answer").all()
    expect(served.get_by_role("row").nth(1)).to_contain_text("0")
    expect(target.get_by_role("rowheader", name="0", exact=True)).to_have_count(0)
    me.look("model", is_kept=True)
    page.get_by_label("Image (PNG or JPEG)").set_input_files(tmp_path / "deposit.zip")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("alert")).to_contain_text("The image cannot be used")
    me.complaints.clear()  # the browser reports every 4xx
    page.get_by_role("button", name="Revoke").click()
    expect(page.locator(".tile.deposited")).to_have_count(3)

    me.open("Change")
    page.get_by_label("require a second person").check()
    page.locator("#policy-reason").fill("rule of two")
    page.get_by_role("button", name="Change the policy").click()
    expect(page.get_by_text("need a second person")).to_be_visible()
    colleague = Visitor(browser, service, "grace", Role.ADMINISTRATOR, scheme="dark")
    page.goto(f"/console/deposits/{deposit}")
    me.open("Destroy the deposit module for good")
    page.get_by_label("Type 0, 1, 2 to confirm").fill("0, 1")
    page.locator("#purge-reason").fill("asked for by the owner")
    page.get_by_role("button", name="Ask for approval to purge").click()
    expect(page.get_by_role("alert")).to_contain_text("type the classes exactly as shown")
    me.complaints.clear()
    page.get_by_role("link", name="Back").click()
    me.open("Destroy the deposit module for good")
    page.get_by_label("Type 0, 1, 2 to confirm").fill("0, 1, 2")
    page.locator("#purge-reason").fill("asked for by the owner")
    page.get_by_role("button", name="Ask for approval to purge").click()
    expect(page.get_by_text("This is your own request")).to_be_visible()
    me.look("own request")
    colleague.page.goto("/console/approvals")
    colleague.look("approvals", is_kept=True)
    colleague.page.get_by_role("button", name="Approve").click()
    expect(colleague.page.get_by_text("No request is waiting for a decision")).to_be_visible()
    colleague.page.goto("/console/models/digits")
    expect(colleague.page.locator(".tile.purged")).to_have_count(3)
    colleague.look("purged")


def test_audit_is_read_and_keys_are_created(service: Service, browser: Browser) -> None:
    service.register()
    service.deposit(["auk"])
    me = Visitor(browser, service, "auditor", Role.AUDITOR)
    page = me.page
    expect(page.get_by_role("link", name="Keys")).to_have_count(0)
    page.get_by_role("button", name="Verify the chain").click()
    expect(page.get_by_text("Intact")).to_be_visible()
    page.get_by_label("Action").fill("deposit.finished")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    me.open("Details")
    me.look("audit", is_kept=True)
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert "deposit.finished" in download.value.path().read_text()

    boss = Visitor(browser, service, "boss", Role.ADMINISTRATOR, scheme="dark")
    page = boss.page
    page.get_by_role("link", name="Keys").click()
    page.get_by_label("Who uses it").fill("licensing")
    page.get_by_label("custodian").check()
    page.get_by_role("button", name="Create the key").click()
    key = page.locator("#new-key").inner_text()
    assert key.startswith("lirf_")
    boss.look("keys")
    page.keyboard.press("Tab")  # the first stop of the keyboard leads past the menu
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    boss.look("models")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").fill("lirf_wrong_key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("unknown, expired or revoked")


def test_empty_console_says_what_to_do(service: Service, browser: Browser) -> None:
    me = Visitor(browser, service, "first", Role.ADMINISTRATOR)
    me.page.get_by_role("link", name="Models").click()
    expect(me.page.get_by_text("lirf register")).to_have_count(3)
    me.look("empty")
    me.page.goto("/console/models/nothing")
    expect(me.page.get_by_role("heading", name="There is no such model")).to_be_visible()
