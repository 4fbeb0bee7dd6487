"""The page of /dashboard in Debian's Chromium, under load: its cells change, and what it shows is what the server counts.
Exit status 77, skipped, where there is no Chromium."""

import concurrent.futures
import contextlib
import re
import shutil
import sys
import threading

from server import NAME, Server, await_  # first: it finds the next
from program import ProgramTest, main
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

KEY = "a-key-of-this-test"


@contextlib.contextmanager
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,1000":
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def load(server, headers):
    """Requests all the time, two at a time."""
    over = threading.Event()

    def work(first):
        for i in range(first, 1 << 30, 2):
            if over.is_set():
                return
            status, answer = server.post("/v1/completions", {"prompt": f"Chapter {i}", "max_tokens": 10}, headers)
            assert status == 200, answer

    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        workers = [pool.submit(work, first) for first in range(2)]
        try:
            yield
        finally:
            over.set()
        for worker in workers:
            worker.result()  # or what it has met


class DashboardTest(ProgramTest):
    def text(self, name):
        return self.driver.execute_script("return document.getElementById(arguments[0]).innerText", name)

    def rows(self, name):
        """All at once: the page makes its tables anew with every look."""
        return self.driver.execute_script("return [...document.querySelectorAll(arguments[0])].map((row) => "
                                          "[...row.cells].map((cell) => cell.innerText))", f"#{name} tbody tr")

    def picture(self):
        return self.driver.execute_script("return document.getElementById('heat').toDataURL()")

    def number(self, name):
        """The tile's or the fact's number."""
        found = re.search(rf"(?m)^{re.escape(name)}\n([\d.,]+)", self.text("now"))
        return found and float(found[1].replace(",", ""))

    def messages(self):
        """What the browser complains of, but for refused keys."""
        return [entry for entry in self.driver.get_log("browser") if "401 (Unauthorized)" not in entry["message"]]

    def test_under_load(self):
        with Server(ranks=3) as server, browser() as self.driver:
            self.driver.get(f"http://127.0.0.1:{server.port}/dashboard")
            await_(lambda: self.text("state") == f"{NAME}: ok, 3 of 3 ranks", "the first look")
            with load(server, {}):
                await_(lambda: (self.number("tokens/s generated") or 0) > 0, "tokens")
                before = self.picture()
                await_(lambda: self.picture() != before, "other colours")
            def selections(layer):
                return server.get("/v1/experts")[1]["expert_rows"][layer]  # the ranks report once a second
            with self.subTest("tables"):
                self.driver.find_element(By.CSS_SELECTOR, "#as-table summary").click()
                Select(self.driver.find_element(By.ID, "span")).select_by_value("total")
                for layer in 0, 2:
                    Select(self.driver.find_element(By.ID, "layer")).select_by_value(str(layer))
                    await_(lambda: [row[1] for row in self.rows("experts")] == [f"{n:,}" for n in selections(layer)], "the server's numbers")
                self.assertEqual([row[0] for row in self.rows("ranks")], ["0", "1", "2"])
                self.assertEqual([row[0] for row in self.rows("waits")], ["0", "1", "2"])
                self.assertEqual([row[r + 1] for r, row in enumerate(self.rows("waits"))], ["–"] * 3)
                done = int(server.metric("tokenferry_requests_total"))
                await_(lambda: self.rows("requests")[0][:2] == ["success", f"{done:,}"], "the number of requests")
                self.assertIn("4, 32", self.text("facts"))
            with self.subTest("keyboard"):
                heat = self.driver.find_element(By.ID, "heat")
                heat.send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
                await_(lambda: self.text("cell").startswith(f"MoE layer 2, expert 1: {selections(2)[1]:,} selections"), "the cell in words")
                heat.send_keys(Keys.END, *[Keys.ARROW_DOWN] * 9)
                self.assertRegex(self.text("cell"), "^MoE layer 3, expert 31: ")
                self.assertEqual(self.driver.find_element(By.ID, "announced").get_attribute("textContent"), self.text("cell"))
            with self.subTest("phone, light and dark"):
                def background():
                    return self.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
                colours = set()
                for scheme in "light", "dark":
                    self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
                    colours.add(background())
                self.assertEqual(len(colours), 2)
                for width in 320, 390:
                    self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": True})
                    self.assertEqual(self.driver.execute_script("return document.documentElement.scrollWidth"), width)
            hosts = self.driver.execute_script("return performance.getEntriesByType('resource').map((entry) => new URL(entry.name).host)")
            self.assertEqual(set(hosts), {f"127.0.0.1:{server.port}"})
            self.assertEqual(self.messages(), [])
            self.assertEqual(server.stop(), 0)
            await_(lambda: self.text("state").startswith("no answer: "), "the end of the server")

    def test_with_a_key(self):
        self.write("keys", KEY + "\n")
        with Server("--api-key-file", self.path("keys")) as server, browser() as self.driver:
            status, page, headers = server.request("GET", "/dashboard")
            self.assertEqual((status, headers["Content-Type"]), (200, "text/html; charset=utf-8"))
            self.assertIn("default-src 'none'", headers["Content-Security-Policy"])
            self.assertNotIn(NAME, page)
            self.driver.get(f"http://127.0.0.1:{server.port}/dashboard")
            await_(lambda: self.text("state") == "locked", "the question for a key")
            for key, end in ("another-key-of-this-test", lambda: self.text("refused") == "The server refuses this key."), \
                            (KEY, lambda: self.text("state") == f"{NAME}: ok, 1 of 1 ranks"):
                self.assertFalse(self.driver.find_element(By.ID, "data").is_displayed())
                self.driver.find_element(By.ID, "key").send_keys(key, Keys.ENTER)
                await_(end, key)
            self.assertTrue(self.driver.find_element(By.ID, "data").is_displayed())
            self.assertFalse(self.driver.find_element(By.ID, "ask").is_displayed())
            self.assertEqual(self.messages(), [])
            self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        print("skipped: there is no chromium or no chromedriver here")
        sys.exit(77)
    main()
