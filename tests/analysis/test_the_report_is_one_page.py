"""The report is one file that needs no network; the verdicts come first."""

import base64
import re
import shutil
import subprocess

import pytest

from analysis.__main__ import main
from analysis.catalogue import figures, tables
from analysis.claims.definitions import load_claims
from tests.analysis.conftest import planned, write_plan, write_run, write_studies

ROWS = [
    planned(optimizer, seed)
    for optimizer in ("adamw", "powerstep", "powerstep-int8")
    for seed in range(3)
]
NEEDS_CHROMIUM = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is not installed"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Return the report of a comparison: a run diverged, one is missing, one label is markup."""
    results = tmp_path_factory.mktemp("report") / "results"
    write_studies(results)
    rows = [row | {"label": "<b>Int8</b>"} if "int8" in row["run"] else row for row in ROWS]
    for i, row in enumerate(rows[:-1]):
        write_run(results, row, 3 + i / 10, 37 if i == 4 else None)
    plan = write_plan(results, rows)
    settings = "# snakemake --config profile=mine\ndataset: tiny & small\n"
    plan.with_suffix(".yaml").write_text(settings)
    main(["all", str(plan)])
    return results / "mine" / "report.html"


def in_chromium(page, tmp_path, script):
    """Return the document after a headless Chromium has run a script in it."""
    copy = tmp_path / "copy.html"
    copy.write_text(page.read_text() + f"<script>{script}</script>")
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900", "--dump-dom"),
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_it_loads_nothing(page):
    text = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert not re.search(r"url\(|@import|<link", text)


def test_its_verdicts_come_first_and_there_is_one_for_each_claim(page):
    text = page.read_text()
    places = [text.index(f'id="{name}"') for name in ("verdicts", "figures", "tables", "runs")]
    assert places == sorted(places)
    top = text[places[0] : places[1]]
    for number, claim in load_claims("powerstep").items():
        assert f'href="#powerstep-{number}"' in top
        assert claim.statement.replace("'", "&#39;") in top


def test_every_figure_and_table_of_the_catalogue_stands_in_it(page):
    text = page.read_text()
    for figure in figures(ROWS).values():
        png = (page.parent / "figures" / f"{figure.name}.png").read_bytes()
        assert base64.b64encode(png).decode() in text
    for table in tables(ROWS).values():
        assert f'<h3 id="{table.name}">' in text


def test_it_says_where_the_numbers_come_from(page):
    text = page.read_text()
    for fact in ("c" * 40, "2.13.0", "ab" * 32, "snakemake --config profile=mine"):
        assert fact in text
    assert "dataset: tiny &amp; small" in text
    assert "9 runs: 7 completed, 1 diverged, 1 missing" in text


def test_text_from_a_profile_is_no_markup(page):
    text = page.read_text()
    assert "<b>Int8</b>" not in text
    assert "&lt;b&gt;Int8&lt;/b&gt;" in text


@NEEDS_CHROMIUM
@pytest.mark.parametrize(("clicks", "descending"), [(1, False), (2, True)])
def test_a_click_on_a_heading_sorts_the_runs_by_it(page, tmp_path, clicks, descending):
    click = "[...document.querySelectorAll('#runs th')].find(h => h.textContent == '{}').click();"
    document = in_chromium(page, tmp_path, click.format("best val loss") * clicks)
    body = document[document.index('id="runs"') :].split("</table>")[0]
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", body)
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in body.split("<tr>")[1:]]
    losses = [float(row[heads.index("best val loss")]) for row in rows if "missing" not in row]
    assert len(losses) == 8
    assert losses == sorted(losses, reverse=descending)


@NEEDS_CHROMIUM
def test_the_page_is_no_wider_than_its_window_and_opens_the_claim_it_is_asked_for(page, tmp_path):
    script = (
        "location.hash = '#powerstep-3';"
        "addEventListener('hashchange', () => document.title = ["
        "document.documentElement.scrollWidth <= innerWidth,"
        "[...document.images].every(image => image.naturalWidth > 0),"
        "document.getElementById('powerstep-3').open]);"
    )
    assert "<title>true,true,true</title>" in in_chromium(page, tmp_path, script)
