"""Alerts: valid, about series that a real weir has, each shown to fire, to clear, and to stay silent on a near miss."""
import re

import pytest
import yaml

import promql
import scrape
from scrape import ROOT, promtool

FILES = sorted((ROOT / "helm" / "weir" / "alerts").glob("*.yaml"))
TESTS = sorted((ROOT / "tests" / "chart" / "alerts").glob("*_test.yaml"))
SEVERITIES = {"critical", "warning", "info"}


def rules_of(path):
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


RULES = {rule["alert"]: rule for path in FILES for rule in rules_of(path)}
GROUPS = [group for path in TESTS for group in yaml.safe_load(path.read_text())["tests"]]
by_name = pytest.mark.parametrize("name", sorted(RULES))


def minutes(text):
    return int(re.fullmatch(r"(\d+)m", text).group(1))


def firing_of(group, name):
    """[(minute, whether it fires)] of one case."""
    return sorted((minutes(one["eval_time"]), any(f'alertname="{name}"' in sample["labels"] for sample in one["exp_samples"]))
                  for one in group["promql_expr_test"])


def test_there_are_alerts():
    assert len(FILES) == len(TESTS) >= 5 and len(RULES) >= 25
    assert len(RULES) == sum(len(rules_of(path)) for path in FILES), "a name twice"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_promtool_checks_the_file_as_it_is(path):
    code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", path)
    assert code == 0, said


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_they_fire_and_clear(path):
    code, said = promtool("test", "rules", path)
    assert code == 0, said


@by_name
def test_each_has_a_case_that_fires_and_clears_and_a_near_miss(name):
    own = [group for group in GROUPS if group["name"].startswith(f"{name}: ")]
    assert own, "no case"
    for group in own:
        states = [fires for _, fires in firing_of(group, name)]
        assert not states[0] and True in states and not states[-1], f"{group['name']}: silent, firing, silent expected: {states}"
    near = [group for group in GROUPS if group["name"].startswith(f"not {name}: ")]
    assert near, "no near miss"
    for group in near:
        assert not any(fires for _, fires in firing_of(group, name)), group["name"]


def test_every_case_looks_at_all_alerts():
    """So that one which fires where it must not is seen in every case, not in its own alone."""
    for group in GROUPS:
        assert re.match(r"(not )?(\w+): .", group["name"]).group(2) in RULES, group["name"]
        assert {one["expr"] for one in group["promql_expr_test"]} == {'ALERTS{alertstate="firing"}'}, group["name"]


def result_labels(name):
    return promql.check(RULES[name]["expr"], scrape.labels_of, lambda metric, matchers: None)


@by_name
def test_it_asks_for_what_there_is(name):
    asked = []
    promql.check(RULES[name]["expr"], scrape.labels_of, lambda metric, matchers: asked.append((metric, matchers)))
    assert asked
    for metric, matchers in asked:
        assert scrape.is_there(metric), f"a real weir shows no {metric}"
        for label, sign, value in matchers:
            wrong = scrape.wrong_words(label, sign, value)
            assert not wrong, f"{metric}: no {label} is ever {wrong}"


@by_name
def test_it_tells_who_and_what_to_do(name):
    rule = RULES[name]
    notes, labels = rule["annotations"], result_labels(name)
    assert rule["labels"]["severity"] in SEVERITIES and set(rule["labels"]) == {"severity"}
    assert set(notes) == {"summary", "description"} and set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert len(notes["summary"]) < 160 and "\n" not in notes["summary"]
    assert re.search(r"For callers(, [^:]*)?: ", notes["description"]), "what it means for callers"
    assert re.search(r"(?m)^First: ", notes["description"]), "what to look at first"
    assert "namespace" in labels and "job" in labels, "whose is it?"
    for used in re.findall(r"\$labels\.(\w+)", notes["summary"] + notes["description"]):
        assert used in labels, f"the annotations say {used}, the alert has only {sorted(labels)}"


@by_name
def test_its_text_names_what_there_is(name):
    """The queries and metrics that its description tells one to look at."""
    known = scrape.families()
    for metric in re.findall(r"\b(?:weir|process)_[a-z_]+[a-z]\b", RULES[name]["annotations"]["description"]):
        assert metric in known or re.sub(r"_(bucket|sum|count)$", "", metric) in known, metric


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_text_can_be_written(path, tmp_path):
    """Takes every case that fires, says that nothing does, and reads from promtool's complaint what would be sent."""
    cases = yaml.safe_load((ROOT / "tests" / "chart" / "alerts" / f"{path.stem}_test.yaml").read_text())
    cases["rule_files"] = [str(path)]
    expected = 0
    for group in cases["tests"]:
        own = group["name"].partition(": ")[0]
        when = [one["eval_time"] for one in group.pop("promql_expr_test")
                if any(f'alertname="{own}"' in sample["labels"] for sample in one["exp_samples"])]
        group["alert_rule_test"] = [{"alertname": own, "eval_time": when[0], "exp_alerts": []}] if when else []
        expected += bool(when)
    file = tmp_path / "text_test.yaml"
    file.write_text(yaml.safe_dump(cases))
    code, said = promtool("test", "rules", file)
    written = re.findall(r"summary=\"((?:[^\"\\]|\\.)*)\"", said)
    assert code == 1 and len(written) == expected, said
    for word in ("<no value>", "<error", "error calling", "%!", "NaN", "{{"):
        assert word not in said, said


def test_the_scrape_itself_is_sound():
    code, said = promtool("check", "metrics", text=scrape.scrape())
    assert code == 0 and said.strip() == "", said
