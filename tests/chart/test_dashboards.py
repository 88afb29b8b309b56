"""Dashboards: valid, tidy, about series that a real weir has, with labels that these have."""
import itertools
import json
import re

import pytest
import yaml

import promql
import scrape
from scrape import ROOT, promtool

FILES = sorted((ROOT / "helm" / "weir" / "dashboards").glob("*.json"))
BOARDS = {path.stem: json.loads(path.read_text()) for path in FILES}
ALERTS = set(re.findall(r"- alert: (\w+)", "".join(p.read_text() for p in (ROOT / "helm" / "weir" / "alerts").glob("*.yaml"))))
BUILT_IN = {"__rate_interval": "5m", "__interval": "1m", "__range": "1h", "__range_s": "3600"}
CHARTS = {"timeseries", "stat", "heatmap", "table", "state-timeline"}
by_board = pytest.mark.parametrize("name", sorted(BOARDS))


def panels_of(name, rows=False):
    return [panel for panel in BOARDS[name]["panels"] if rows or panel["type"] != "row"]


def variables_of(name):
    return {one["name"]: one for one in BOARDS[name]["templating"]["list"]}


def queries_of(name):
    """(where, expression) of all that is asked: panels, annotations, variables."""
    board = BOARDS[name]
    for panel in panels_of(name):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for one in board["annotations"]["list"]:
        if "expr" in one:
            yield one["name"], one["expr"]
    for one in variables_of(name).values():
        if one["type"] == "query":
            vector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", one["query"]["query"]).groups()
            yield one["name"], f"count by ({label}) ({vector})"


def filled_in(expression, name):
    """What Grafana sends: its own variables, ours as everything or their default."""
    values = dict(BUILT_IN)
    for variable in variables_of(name).values():
        values[variable["name"]] = variable.get("allValue") or variable["current"].get("value", "")
    return re.sub(r"\$\{?(\w+)\}?", lambda m: values[m.group(1)], expression)


def test_one_for_each_question():
    assert sorted(BOARDS) == ["weir-dedup", "weir-health", "weir-limits", "weir-providers", "weir-tokens"]
    for name, board in BOARDS.items():
        assert board["uid"] == name and len(name) <= 40
        assert board["schemaVersion"] >= 38 and board["tags"] == ["weir"] and "id" not in board
        assert board["description"] and board["title"].endswith("?")
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_file_is_tidy(path):
    board = json.loads(path.read_text(), object_pairs_hook=lambda pairs: _once(pairs))
    assert path.read_text() == json.dumps(board, indent=2, ensure_ascii=False) + "\n"


def _once(pairs):
    assert len({key for key, _ in pairs}) == len(pairs), f"a key twice: {[key for key, _ in pairs]}"
    return dict(pairs)


@by_board
def test_promtool_reads_every_query(name):
    said = scrape.syntax_errors([filled_in(text, name) for _, text in queries_of(name)])
    assert said == ""


@by_board
def test_every_query_asks_for_what_there_is(name):
    for where, text in queries_of(name):
        asked = []
        try:
            promql.check(filled_in(text, name), scrape.labels_of, lambda metric, matchers: asked.append((metric, matchers)))
        except (promql.Wrong, KeyError) as e:
            pytest.fail(f"{where}: {e}: {text}")
        assert asked or name, where
        for metric, matchers in asked:
            assert scrape.is_there(metric), f"{where}: a real weir shows no {metric}"
            for label, sign, value in matchers:
                assert value == ".*" or not scrape.wrong_words(label, sign, value), f"{where}: {label}{sign}{value}"


@by_board
def test_every_query_is_of_the_pods_chosen(name):
    for panel in panels_of(name):
        for target in panel["targets"]:
            selectors = re.findall(r"(?:weir|process)_\w+(?:\{[^}]*\})?", target["expr"])
            chosen = [text for text in selectors if 'namespace=~"$namespace"' in text and 'pod=~"$pod"' in text]
            others = {text for text in selectors if text not in chosen}
            assert chosen and others <= {"process_start_time_seconds"}, f"{panel['title']}: {others}"


@by_board
def test_legends_show_labels_that_are_there(name):
    for panel in panels_of(name):
        for target in panel["targets"]:
            labels = promql.check(filled_in(target["expr"], name), scrape.labels_of)
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= labels, f"{panel['title']}: {shown - labels}"
            assert panel["type"] not in ("timeseries", "state-timeline") or shown == labels or target["legendFormat"] != "__auto"


@by_board
def test_it_has_the_variables_it_uses(name):
    have = variables_of(name)
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps([BOARDS[name]["panels"], BOARDS[name]["annotations"]]))) - set(BUILT_IN)
    used |= {word for one in have.values() for word in re.findall(r"\$\{?(\w+)\}?", json.dumps(one.get("query", "")))}
    assert used == set(have), f"missing {used - set(have)}, unused {set(have) - used}"
    assert list(have)[:3] == ["datasource", "namespace", "pod"] and have["datasource"]["query"] == "prometheus"


@by_board
def test_nothing_is_bound_to_one_grafana(name):
    sources = {json.dumps(one["datasource"]) for one in walk(BOARDS[name]) if "datasource" in one}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}', '{"type": "grafana", "uid": "-- Grafana --"}'}
    assert not any("id" in panel for panel in panels_of(name, rows=True)), "ids are Grafana's to give"


def walk(value):
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(one)


@by_board
def test_panels_lie_beside_each_other(name):
    places = [panel["gridPos"] for panel in panels_of(name, rows=True)]
    for p in places:
        assert set(p) == {"h", "w", "x", "y"} and p["x"] >= 0 and p["y"] >= 0 and p["h"] > 0 and p["w"] > 0 and p["x"] + p["w"] <= 24
    for a, b in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart, f"{a} and {b} overlap"


@by_board
def test_a_panel_tells_what_it_shows(name):
    titles = [panel["title"] for panel in panels_of(name)]
    assert len(titles) >= 10 and len(set(titles)) == len(titles)
    for panel in panels_of(name):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["type"] in CHARTS and panel["title"] and len(panel["description"]) > 10
        assert defaults["unit"] and defaults["thresholds"]["steps"][0]["value"] is None
        if panel["type"] in ("timeseries", "state-timeline"):
            assert panel["options"]["legend"]["showLegend"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        for alert in re.findall(r"\bWeir[A-Z]\w+\b", panel["description"]):
            assert alert in ALERTS, f"{panel['title']}: no alert is called {alert}"


def test_durations_lead_to_traces():
    """Exemplars are on where requests' durations are drawn, and only there: other histograms have none."""
    on = [target["expr"] for name in BOARDS for panel in panels_of(name) for target in panel["targets"] if target.get("exemplar")]
    assert len(on) >= 3 and all("weir_request_duration_seconds_bucket" in text for text in on)


@by_board
def test_the_dashboards_know_each_other_and_what_happened(name):
    link, = BOARDS[name]["links"]
    assert link["type"] == "dashboards" and link["tags"] == ["weir"] and link["keepTime"] and link["includeVars"]
    marks = {one["name"]: one["expr"] for one in BOARDS[name]["annotations"]["list"] if "expr" in one}
    assert "weir_config_reloads_total" in marks["Reloads"] and 'state="open"' in marks["Breakers open"]


def test_totals_count_from_the_first_request(tmp_path):
    """A series is born with its first count: a pod that lived for minutes and made one call is not free of charge."""
    panel, = (p for p in panels_of("weir-tokens") if p["title"].startswith("What did each tenant use"))
    text = {target["refId"]: filled_in(target["expr"], "weir-tokens") for target in panel["targets"]}

    def tokens(tenant, kind, values, pod="a-0"):
        return {"series": f'weir_llm_tokens_total{{namespace="n",job="j",pod="{pod}",instance="{pod}",upstream="u",tenant="{tenant}",type="{kind}"}}',
                "values": values}

    def started(pod, values):
        return {"series": f'process_start_time_seconds{{namespace="n",job="j",pod="{pod}",instance="{pod}"}}', "values": values}

    case = {
        "interval": "1m",
        "input_series": [
            started("a-0", "-86400x180"), tokens("steady", "input", "5000000+100000x180"),
            tokens("once", "input", "_x150 2000000x30"), tokens("once", "output", "_x150 1000000x30"),
            started("a-1", "_x130 7800x5 stale"), tokens("short", "input", "_x130 3000000x5 stale", "a-1"),   # a pod of six minutes
            started("a-2", "_x150 -86400x30"), tokens("found", "input", "_x150 90000000x30", "a-2")],       # old, and watched of late
        "promql_expr_test": [
            {"expr": f"round({text['A']}, 1000)", "eval_time": "180m", "exp_samples": [
                {"labels": '{tenant="steady"}', "value": 6000000}, {"labels": '{tenant="once"}', "value": 2000000},
                {"labels": '{tenant="short"}', "value": 3000000}, {"labels": '{tenant="found"}', "value": 0}]},
            {"expr": f"round({text['C']}, 1000)", "eval_time": "180m", "exp_samples": [{"labels": '{tenant="once"}', "value": 1000000}]},
            {"expr": f"round({text['D']}, 0.01)", "eval_time": "180m", "exp_samples": [
                {"labels": '{tenant="steady"}', "value": 15}, {"labels": '{tenant="once"}', "value": 15},
                {"labels": '{tenant="short"}', "value": 7.5}, {"labels": '{tenant="found"}', "value": 0}]}]}
    file = tmp_path / "totals_test.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [case]}))
    code, said = promtool("test", "rules", file)
    assert code == 0, said
