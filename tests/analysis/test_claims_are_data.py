"""The claims are read from YAML, and their verdicts follow from the primary findings alone."""

import math

import pytest
from scipy import stats

from analysis.claims.claims import RULES, Judged, decidable, judge, judge_all
from analysis.claims.definitions import Claim, load_claims
from analysis.claims.verdicts import (
    INCONCLUSIVE,
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    Finding,
    corrected,
    overall,
)
from analysis.claims.write import claims_frame, write_claims
from analysis.frames import read_plan, read_results
from experiments.settings import ConfigError
from tests.analysis.conftest import planned, write_plan, write_run, write_studies
from tests.analysis.made_up import lengths, results, run, sweep


@pytest.mark.parametrize("paper", ["powerstep", "lion"])
def test_every_rule_exists_and_every_margin_has_a_reason(paper):
    for claim in load_claims(paper).values():
        for part in claim.parts:
            for question in (part, *part.describe):
                assert question.rule in RULES
            if part.margin and part.rule not in ("state_ratio", "table_1"):
                assert part.reason


def test_an_unknown_paper_is_told_in_one_sentence():
    with pytest.raises(
        ConfigError, match="papers has 'adam', but it must be one of lion, powerstep"
    ):
        load_claims("adam")


def claim_of(*findings):
    fields = {"statement": "It works", "paper": "it says so", "parts": [{"part": "p", "rule": "r"}]}
    return Judged("1", Claim.model_validate(fields), findings)


def primary(verdict, p_refuted=math.nan):
    return Finding(verdict, p_refuted=p_refuted, is_primary=True)


def test_a_claim_is_as_strong_as_its_weakest_tested_part():
    assert overall([SUPPORTED, SUPPORTED, NOT_TESTED]) == SUPPORTED
    assert overall([SUPPORTED, INCONCLUSIVE]) == INCONCLUSIVE
    assert overall([SUPPORTED, INCONCLUSIVE, NOT_SUPPORTED]) == NOT_SUPPORTED
    assert overall([NOT_TESTED]) == overall([]) == NOT_TESTED


def test_untested_parts_are_counted():
    some = claim_of(primary(SUPPORTED), primary(SUPPORTED), primary(NOT_TESTED))
    assert some.said == "supported (2 of 3 parts tested)"
    assert claim_of(primary(SUPPORTED)).said == "supported"
    assert claim_of(primary(NOT_TESTED), primary(NOT_TESTED)).said == NOT_TESTED
    assert decidable([some, claim_of(primary(NOT_TESTED))]) == (
        "of 2 claims 1 supported, 1 not tested at this scale"
    )


def test_descriptions_do_not_decide():
    assert claim_of(primary(SUPPORTED), Finding(NOT_SUPPORTED)).verdict == SUPPORTED


def test_refutations_survive_holms_correction_or_become_inconclusive():
    p_values = [0.001, 0.012, 0.03, 0.4]
    found = corrected(
        [primary(NOT_SUPPORTED if p < 0.05 else INCONCLUSIVE, p) for p in p_values]
        + [primary(NOT_SUPPORTED), Finding(NOT_SUPPORTED, p_refuted=0.02)]
    )
    # By hand: 4·0.001, 3·0.012, 2·0.03 against 0.05. A count has no p; the last is no primary one.
    verdicts = [finding.verdict for finding in found]
    assert verdicts == [
        NOT_SUPPORTED,
        NOT_SUPPORTED,
        INCONCLUSIVE,
        INCONCLUSIVE,
        NOT_SUPPORTED,
        NOT_SUPPORTED,
    ]
    assert "0.06 after Holm's correction" in found[2].measured


def test_a_null_hypothesis_is_rarely_refuted_among_many():
    uniform = stats.uniform.rvs(size=(2000, 12), random_state=0)
    refuted = sum(
        any(
            finding.verdict == NOT_SUPPORTED
            for finding in corrected(
                [primary(NOT_SUPPORTED if p < 0.05 else INCONCLUSIVE, p) for p in draws]
            )
        )
        for draws in uniform
    )
    # Two standard errors above 5 %.
    assert refuted / 2000 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.fixture
def studies(results_folder):
    """Return a function that judges made-up runs beside made-up studies."""
    write_studies(results_folder)

    def judged(rows, paper="powerstep"):
        made = results(rows)
        return {
            each.number: each
            for each in judge(type(made)(results_folder, made.runs, made.metrics), paper)
        }

    return judged


def test_the_largest_model_that_can_be_tested_decides(studies):
    small, large = {"parameters": 1e6}, {"parameters": 9e6, "model": "large"}
    untested = {"parameters": 5e7, "model": "larger", "unigram_loss": 3.1, "bigram_loss": 1.0}
    rows = []
    for columns, powerstep in ((small, 2.8), (large, 3.3), (untested, 2.0)):
        rows += [*lengths(**columns), *sweep("powerstep", powerstep, **columns)]
        rows += sweep("adamw", 3.0, **columns)
    claim = studies(rows)["1"]
    (deciding,) = [finding for finding in claim.findings if finding.is_primary]
    assert deciding.scale.startswith("large,")
    assert claim.verdict == NOT_SUPPORTED
    assert all(not finding.verdict for finding in claim.findings if not finding.is_primary)


def test_a_larger_model_with_too_few_seeds_does_not_decide(studies):
    rows = []
    for columns, seeds in (({"parameters": 1e6}, 3), ({"parameters": 9e6, "model": "large"}, 2)):
        rows += [*lengths(**columns), *sweep("powerstep", 2.8, seeds=seeds, **columns)]
        rows += sweep("adamw", 3.0, seeds=seeds, **columns)
    claim = studies(rows)["1"]
    (deciding,) = [finding for finding in claim.findings if finding.is_primary]
    assert deciding.scale.startswith("gpt2-pico,")
    assert claim.verdict == SUPPORTED


def test_claim_1_is_supported_where_powerstep_is_far_better(studies):
    rows = [*lengths(), *sweep("powerstep", 2.0), *sweep("adamw", 3.0)]
    assert studies(rows)["1"].said == SUPPORTED


def test_a_profile_that_learns_nothing_gives_no_verdict_on_losses(studies):
    rows = [
        row | {"unigram_loss": 3.2, "bigram_loss": 1.0}
        for row in [*lengths(), *sweep("powerstep", 3.0), *sweep("adamw", 3.0)]
    ]
    judged = studies(rows)
    for number in ("1", "4", "5", "6", "7", "8", "12", "16"):
        assert judged[number].verdict == NOT_TESTED


def test_withdrawn_and_later_claims_are_judged_apart(studies):
    judged = studies([run("adamw", 3.0)])
    assert judged["10a"].statement.endswith("(withdrawn)")
    assert judged["10b"].claim.version == "v2"


def test_a_second_papers_claims_are_judged_in_the_same_form(studies):
    rates = [2.0**k * 1e-3 for k in range(-2, 5)]
    rows = [
        *sweep("lion", 3.0, best=1e-3, rates=rates),
        *sweep("adamw", 3.0, best=5e-3, rates=rates),
    ]
    assert studies(rows, "lion")["1"].said == SUPPORTED


def test_every_claim_has_a_verdict_in_both_files(results_folder):
    write_studies(results_folder)
    rows = [planned(optimizer, seed) for optimizer in ("adamw", "powerstep") for seed in (0, 1)]
    for row in rows:
        write_run(results_folder, row, 3.0 + 0.1 * row["seed"])
    found = read_results(read_plan(write_plan(results_folder, rows)), results_folder)
    write_claims(found, judge_all(found, ["powerstep", "lion"]), results_folder)
    text = (results_folder / "claims.md").read_text()
    for claim in (*load_claims("powerstep").values(), *load_claims("lion").values()):
        assert claim.statement in text
    assert "nan" not in text.lower().split()
    table = claims_frame(judge(found))
    by_part = table[table["is_primary"]].groupby(["claim", "part"]).size()
    assert (by_part == 1).all()
    assert table.loc[~table["is_primary"], "verdict"].eq("").all()
    assert set(table["claim"]) == set(load_claims("powerstep"))
