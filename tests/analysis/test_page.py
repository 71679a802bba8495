"""The report page: what is in the file, and how it behaves in a real browser."""

import json
import re
import shutil

import pytest

from analysis.__main__ import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BUDGETS = (500_000, 1_000_000, 1_999_999, 2_000_000, 10**9)


def write(path, logged, *studies):
    given = [part for study in studies for part in ("--study", study)]
    assert main(["report", *given, "--output", str(path), "--tracking-uri", logged.uri]) == 0
    return path


@pytest.fixture(scope="module")
def page(logged, tmp_path_factory):
    """The page of the study `grid`."""
    return write(tmp_path_factory.mktemp("page") / "report.html", logged, "grid")


def data(path):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    return json.loads(text)


def test_the_same_study_gives_the_same_file_of_a_few_megabytes(page, logged, tmp_path):
    again = write(tmp_path / "again.html", logged, "grid")
    assert again.read_bytes() == page.read_bytes()
    assert page.stat().st_size < 6e6


def test_the_page_forbids_all_that_is_not_in_it(page):
    text = page.read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src &#39;sha256-") or "script-src 'sha256-" in policy
    assert not re.search("http|unsafe-inline|[*]", policy.replace("style-src 'unsafe-inline'", ""))
    assert not re.search(r"<(link|img|iframe|script[^>]* src)", text.partition("<script")[0])


def test_without_scripts_the_answer_is_there(page, logged, capsys):
    text = page.read_text()
    assert "best of grid within" in text
    assert "recommended" in text
    assert "a1-s0" in text


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, see the extra dev")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader"]
        )
        yield found
        found.close()


@pytest.fixture
def show(browser):
    """Function of (path, width): the open page, of which every request and every error fails the test."""
    contexts = []

    def show(path, width=1200):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        contexts.append(context)
        opened = context.new_page()
        opened.on("pageerror", lambda error: troubles.append(str(error)))
        opened.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(path.as_uri())
        opened.wait_for_selector("#front .main-svg", timeout=120_000)
        assert requests.pop(0) == path.as_uri()
        return opened

    troubles: list[str] = []
    requests: list[str] = []
    yield show
    for context in contexts:
        context.close()
    assert troubles == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == []


def test_a_click_on_the_front_marks_the_rows_of_its_trials(page, show):
    opened = show(page)
    assert opened.locator("tr.marked").count() == 0
    opened.evaluate(
        "(() => { const data = $('front').data.find((each) => each.name === 'dkd');"
        " $('front').emit('plotly_click', {points: [{customdata: data.customdata[0]}]}); })()"
    )
    group = data(page)["groups"]
    assert sorted(opened.locator("tr.marked").evaluate_all("rows => rows.map(row => row.dataset.key)")) == [
        f"0{trial}" for trial in sorted(group["trials"][0])
    ]
    opened.locator("#clear").click()
    assert opened.locator("tr.marked").count() == 0


def test_a_real_click_on_a_point_marks_a_row(page, show):
    opened = show(page)
    opened.locator("#front").scroll_into_view_if_needed()
    x, y = opened.evaluate(
        """(() => {
            const plot = $('front'), trace = plot.data.find((each) => each.name === 'dkd');
            const inside = plot._fullLayout, size = inside._size;
            const best = trace.y.indexOf(Math.max(...trace.y)), frame = plot.getBoundingClientRect();
            return [frame.left + size.l + inside.xaxis.d2p(trace.x[best]),
                    frame.top + size.t + inside.yaxis.d2p(trace.y[best])];
        })()"""
    )
    opened.mouse.move(x - 30, y - 30)
    opened.mouse.move(x, y, steps=8)
    opened.mouse.click(x, y)
    opened.wait_for_selector("tr.marked", timeout=30_000, state="attached")


def test_a_click_on_a_row_marks_it(page, show):
    opened = show(page)
    opened.locator("#table tbody tr").first.click()
    assert opened.locator("tr.marked").count() == 1


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_picker_answers_as_best_does(budget, page, logged, show, capsys):
    study = data(page)["studies"][0]
    steps = [step["bits"] for step in study["answers"]]
    fitting = [n for n, bits in enumerate(steps) if bits <= budget]
    capsys.readouterr()
    best = ["best", "--study", "grid", "--max-bits", str(steps[fitting[-1]]), "--format", "json"]
    assert main([*best, "--tracking-uri", logged.uri]) == 0
    document = json.loads(capsys.readouterr().out)
    opened = show(page)
    opened.locator("#budget").evaluate(f"range => {{ range.value = {fitting[-1]}; range.oninput(); }}")
    cards = opened.locator("#picked .card").all()
    assert f"{document['val_top1']:.2f} % · {document['bits']} bits" in cards[0].inner_text()
    assert document["command"] in cards[0].inner_text()
    recommended = document["recommended"]
    assert recommended["command"] in cards[-1].inner_text()
    assert (len(cards) == 1) == (recommended["command"] == document["command"])


@pytest.mark.parametrize("study", ["grid", "fresh", "mixed", "recorded"])
@pytest.mark.parametrize("width", [380, 1200])
def test_every_study_has_a_page_that_fits_a_phone(study, width, logged, tmp_path, browser):
    path = write(tmp_path / "page.html", logged, study)
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(path.as_uri())
    opened.wait_for_selector("#front .main-svg", timeout=120_000)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
    context.close()


def test_a_name_that_is_html_is_shown_as_it_is(logged, tmp_path, show, monkeypatch):
    from analysis.page import content

    hostile = "</script><img src=x onerror=alert(1)><b>&amp;\u2028"
    own = content._trial
    monkeypatch.setattr(content, "_trial", lambda n, results, trial: {**own(n, results, trial), "name": hostile})
    opened = show(write(tmp_path / "page.html", logged, "grid"))
    assert opened.locator("#table tbody tr td").first.inner_text().strip() == hostile.strip()
    assert opened.locator("#table img").count() == 0
