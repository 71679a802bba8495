"""The report page: what is in the file, and how it behaves in a real browser."""

import json
import re
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis.__main__ import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BUDGETS = (500_000, 1_900_000, 2_000_000, 8_000_000, 10**9)


def write(path, uri, *studies):
    given = [part for study in studies for part in ("--study", study)]
    assert main(["report", *given, "--output", str(path), "--tracking-uri", uri]) == 0
    return path


@pytest.fixture(scope="module")
def page(shelf, tmp_path_factory):
    """The page of the study `normal`: two seeds of three values of alpha, at three widths."""
    return write(tmp_path_factory.mktemp("page") / "report.html", shelf, "normal")


def data(path):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    return json.loads(text)


def test_the_same_study_gives_the_same_file_of_a_few_megabytes(page, shelf, tmp_path):
    again = write(tmp_path / "again.html", shelf, "normal")
    assert again.read_bytes() == page.read_bytes()
    assert page.stat().st_size < 6e6


def test_the_page_forbids_all_that_is_not_in_it(page):
    text = page.read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src &#39;sha256-") or "script-src 'sha256-" in policy
    assert not re.search("http|unsafe-inline|[*]", policy.replace("style-src 'unsafe-inline'", ""))
    assert not re.search(r"<(link|img|iframe|script[^>]* src)", text.partition("<script")[0])


def test_without_scripts_answers_and_tables_are_there(page):
    text = page.read_text()
    visible = re.sub("<script.*?</script>", "", text, flags=re.S)
    for each in (
        "best of normal within",
        "recommended",
        "dkd alpha=0.5 seed=0",
        "<h2>The front</h2>",
        "Methods and widths",
    ):
        assert each in visible


def test_the_page_is_logged_to_the_run_of_each_study(shelf, tmp_path, capsys):
    path = write(tmp_path / "page.html", shelf, "normal", "other")
    capsys.readouterr()
    assert main(["report", "--study", "normal", "--study", "other", "--log", "--tracking-uri", shelf]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"logged report.html to the run of {n}" for n in ("normal", "other")
    ]
    client = MlflowClient(tracking_uri=shelf)
    for name in ("normal", "other"):
        experiment = client.get_experiment_by_name(name).experiment_id
        (run,) = client.search_runs([experiment], "tags.`kdq.kind` = 'study'")
        logged = client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))
        assert Path(logged).read_text() + "\n" == path.read_text()


def test_a_page_is_not_printed_on_a_terminal(shelf, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["report", "--study", "normal", "--tracking-uri", shelf]) == 2
    assert "--output report.html" in capsys.readouterr().err


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
        opened.wait_for_selector("#front .main-svg", timeout=60_000)
        assert requests.pop(0) == path.as_uri()
        return opened

    troubles: list[str] = []
    requests: list[str] = []
    yield show
    for context in contexts:
        context.close()
    assert troubles == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == []


def marked(opened):
    """The names of the trials whose rows are marked."""
    return sorted(opened.locator("tr.marked td:first-child").all_inner_texts())


def test_a_click_on_the_front_marks_its_trials_everywhere(page, show):
    opened = show(page)
    assert marked(opened) == []
    x, y, names = opened.evaluate(
        """(() => {
            const plot = $('front'), trace = plot.data.find((each) => each.name === 'dkd');
            const inside = plot._fullLayout, size = inside._size;
            plot.scrollIntoView({block: 'center'});
            const best = trace.y.indexOf(Math.max(...trace.y)), frame = plot.getBoundingClientRect();
            return [frame.left + size.l + inside.xaxis.d2p(trace.x[best]),
                    frame.top + size.t + inside.yaxis.d2p(trace.y[best]),
                    trace.customdata[best].map((n) => trials[n].name)];
        })()"""
    )
    opened.mouse.move(x - 30, y - 30)
    opened.mouse.move(x, y, steps=8)
    opened.mouse.click(x, y)
    opened.wait_for_selector("tr.marked", timeout=30_000, state="attached")
    assert marked(opened) == sorted(names)
    for plot in ("front", "slice"):
        ring = opened.evaluate(f"$('{plot}').data.find((each) => each.name === 'marked').customdata.flat()")
        assert {opened.evaluate(f"trials[{n}].name") for n in ring} == set(names)
    line = opened.evaluate("$('parallel').data[0].line.color.flatMap((c, i) => (c ? [shown[i].name] : []))")
    assert sorted(line) == sorted(names)
    opened.locator("#clear").click()
    assert marked(opened) == []


def test_a_click_or_enter_on_a_row_marks_it(page, show):
    opened = show(page)
    rows = opened.locator("#table tbody tr")
    rows.nth(1).click()
    assert opened.locator("tr.marked").evaluate_all("rows => rows.map((row) => row.id)") == ["t1"]
    rows.nth(2).focus()
    opened.keyboard.press("Enter")
    assert opened.locator("tr.marked").evaluate_all("rows => rows.map((row) => row.id)") == ["t2"]


def test_ranges_of_parallel_coordinates_choose_rows(page, show):
    opened = show(page)
    total = opened.locator("#table tbody tr").count()
    opened.evaluate(
        "Plotly.restyle('parallel', {[`dimensions[${D.settings.indexOf('alpha')}].constraintrange`]: [[0.9, 1.1]]})"
    )
    chosen = opened.locator("#table tbody tr:not([hidden]) td:first-child").all_inner_texts()
    assert 0 < len(chosen) < total
    assert all(opened.evaluate("name => trials.find((t) => t.name === name).p_alpha", name) == "1.0" for name in chosen)
    opened.locator("#clear").click()
    assert opened.locator("#table tbody tr:not([hidden])").count() == total


def best(shelf, capsys, *limit):
    capsys.readouterr()
    given = ["best", "--study", "normal", *limit, "--format", "json", "--tracking-uri", shelf]
    assert main(given) == 0
    return json.loads(capsys.readouterr().out)


def check_cards(opened, document):
    cards = opened.locator("#picked .card").all()
    width = "float" if document["bits"] == 32 else f"{document['bits']} bits"
    assert f"{document['val_top1']:.2f} % · {width}" in cards[0].inner_text()
    recommended = document["recommended"]
    for card, found in zip(cards, [document, recommended], strict=False):
        assert found["command"] == card.locator("code").inner_text()
    assert (len(cards) == 1) == (recommended is None or recommended["command"] == document["command"])


def test_the_picker_answers_as_best_does(page, shelf, show, capsys):
    opened = show(page)
    for budget in BUDGETS:
        document = best(shelf, capsys, "--max-bits", str(budget))
        opened.evaluate("limit => { $('limit').value = Math.min(1000, place(limit)); pick(); }", budget)
        check_cards(opened, document)
        alike = len(document["cannot_be_told_from_best"])
        told = f"{alike} of {document['compared']} others cannot be told from it"
        assert told in opened.locator("#picked").inner_text(), budget
        assert opened.locator("#others tbody tr").count() == min(alike, 12), budget
    opened.locator("#kind").select_option("targets")
    limits = opened.evaluate("offered().map((found) => found.limit)")
    for limit in limits:
        check_cards(opened, best(shelf, capsys, "--target-accuracy", str(limit)))
        opened.locator("#limit").press("ArrowRight")
    assert opened.evaluate("current()") == len(limits) - 1


def test_the_arrow_keys_go_through_all_budgets(page, show):
    opened = show(page)
    limits = opened.evaluate("offered().map((found) => found.limit)")
    seen = []
    for _ in limits:
        seen.append(opened.evaluate("offered()[current()].limit"))
        opened.locator("#limit").press("ArrowLeft")
    assert seen == limits[::-1]


KINDS = [
    ["empty"],
    ["one_trial"],
    ["all_failed"],
    ["normal"],
    ["lacking"],
    ["by_nll"],
    ["normal", "other"],
    ["grid"],
    ["mixed"],
    ["recorded"],
]


POINTLESS = ("empty", "all_failed")


@pytest.mark.parametrize("studies", KINDS, ids=" and ".join)
def test_every_study_has_a_page_that_fits_a_phone_and_a_screen(studies, logged, shelf, tmp_path, browser):
    path = write(tmp_path / "page.html", logged.uri if studies[0] in ("grid", "mixed", "recorded") else shelf, *studies)
    context = browser.new_context(viewport={"width": 360, "height": 800}, offline=True)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(path.as_uri())
    opened.wait_for_selector(".scripted .whole" if studies[0] in POINTLESS else "#front .main-svg", timeout=60_000)
    assert opened.locator("#front").is_visible() == (studies[0] not in POINTLESS)
    for width in (360, 1200):
        opened.set_viewport_size({"width": width, "height": 800})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
    context.close()


def test_a_metric_that_should_be_low_is_drawn_upside_down_with_its_unit(shelf, tmp_path, show):
    opened = show(write(tmp_path / "page.html", shelf, "by_nll"))
    low, high = opened.evaluate("$('front')._fullLayout.yaxis.range")
    assert low > high
    assert "validation negative log-likelihood (nats)" in opened.locator("#front").inner_text()
    assert "nats [0.000, 1.000]" in opened.evaluate("hover({ ...measured[0], low: 0, high: 1 })")
    opened.select_option("#kind", "targets")
    assert opened.locator("#shown").inner_text() == "at most 0.250 nats"


def test_a_name_that_is_html_is_shown_as_it_is(html_named, tmp_path, show):
    name, uri = html_named
    path = tmp_path / "page.html"
    assert main(["report", "--study", name, "--output", str(path), "--tracking-uri", uri]) == 0
    opened = show(path)
    assert opened.locator("h1").inner_text() == name
    assert opened.locator("#table tbody tr td").first.inner_text() == name
    assert f"student={name}" in opened.locator("#picked .card").first.inner_text()
    assert name in opened.locator("#picked code").first.inner_text()
    assert opened.locator("img, main b").count() == 0
