"""The monitoring configuration: read, refused, different by environment, edited, packed."""

from __future__ import annotations

import json
import runpy
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import setuptools
import yaml
from apprise import Apprise
from hypothesis import given, settings
from hypothesis import strategies as st

from brookside_mlops.alert_channels import VARIABLE, notify_environ
from brookside_mlops.alert_rules import DEFAULT_RULES
from brookside_mlops.errors import InputError
from brookside_mlops.monitoring_config import (
    FILE,
    SCHEMA,
    MonitoringConfig,
    config_file,
    monitoring_config,
    rules_of,
    schema_text,
)
from brookside_mlops.monitoring_configure import configure_alerts
from brookside_mlops.monitoring_sections import Alerting, Profile
from brookside_mlops.yaml_edit import set_value
from brookside_mlops.yaml_models import parse_yaml

ROOT = Path(__file__).resolve().parent.parent


def own_file(project: Path, text: str) -> Path:
    path = project / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(text: str) -> list[str]:
    with pytest.raises(InputError) as found:
        parse_yaml(MonitoringConfig, text, "m.yml")
    return str(found.value).splitlines()


def test_file_of_the_package_has_eight_sections_and_the_numbers_agreed() -> None:
    written = yaml.safe_load((ROOT / FILE).read_text())
    assert set(written) == set(MonitoringConfig.model_fields) and len(written) == 8
    prod = monitoring_config(ROOT).profile("prod")
    metrics, drift, model = prod.performance_metrics, prod.data_drift, prod.model_performance
    assert (metrics.max_error_rate, metrics.max_p95_ms) == (0.05, 2000)
    assert (metrics.min_availability, metrics.critical_availability) == (0.999, 0.99)
    assert (drift.warning_share, drift.critical_share) == (0.15, 0.30)
    assert (model.max_accuracy_drop, model.baseline_accuracy) == (0.05, 0.85)
    assert prod.schedules == {
        "metrics": "every 5 minutes",
        "drift": "weekly monday 02:00",
        "costs": "daily 06:00",
        "retraining": "monthly first monday 02:00",
    }


def test_rules_of_the_package_are_the_default_ones_and_critical_ones_escalate() -> None:
    rules = rules_of(ROOT, "prod")
    plain = [one.model_copy(update={"escalate_after_minutes": None, "escalate_to": ()}) for one in rules]
    assert plain == list(DEFAULT_RULES)
    assert {one.name for one in rules if one.escalate_to} == {"down", "error-rate", "availability"}
    assert rules_of(ROOT, "dev") == ()


def test_every_mistake_is_told_with_line_key_value_and_what_is_allowed() -> None:
    lines = refused("""\
performance_metrics:
  max_error_rate: 5
alerting:
  rules:
    slow: {metric: p95, comparison: above, severity: warning}
    gone: {metric: requests, comparison: below, severity: critical}
    odd: {metric: p95_ms, comparison: above, severity: warning, shout: true}
auto_retraining:
  baseline_rule: none
environment_profiles:
  prd: {}
  prod:
    data_drift: {schedule: mondays}
loging: {}
""")
    assert len(lines) == 7
    assert lines[0].startswith(
        "m.yml line 2: performance_metrics.max_error_rate: 5 should be less than or equal to 1"
    )
    assert lines[1].startswith(
        "m.yml line 5: alerting.rules.slow.metric: 'p95' should be 'requests', 'error_rate'"
    )
    assert lines[2].startswith(
        "m.yml line 7: alerting.rules.odd.shout: not a key here. Allowed: metric, comparison"
    )
    assert lines[3] == "m.yml line 9: auto_retraining.baseline_rule: 'none' should be 'not_worse' or 'better'"
    assert lines[4].startswith("m.yml line 11: environment_profiles.prd") and "'staging'" in lines[4]
    assert lines[5].startswith(
        "m.yml line 13: environment_profiles.prod.data_drift.schedule: 'mondays' is no schedule;"
    )
    assert lines[6].startswith("m.yml line 14: loging: not a key here, was 'logging' meant?")


def test_keys_at_odds_are_told_at_the_key_to_mend() -> None:
    lines = refused("""\
performance_metrics:
  critical_availability: 0.9999
alerting:
  channels: {oncall: {}}
  rules:
    slow:
      metric: p95_ms
      comparison: above
      severity: warning
      resolve_threshold: 2500
      channels: [oncal]
    gone: {metric: requests, comparison: below, severity: critical, inhibits: [slw]}
""")
    assert lines == [
        "m.yml line 2: performance_metrics.critical_availability: 0.9999 is above min_availability; allowed: up to 0.999",
        "m.yml line 10: alerting.rules.slow.resolve_threshold: 2500.0 is above the threshold; allowed: up to 2000",
        "m.yml line 11: alerting.rules.slow.channels.0: 'oncal' is no channel here; allowed: oncall",
        "m.yml line 12: alerting.rules.gone.inhibits.0: 'slw' is no rule here; allowed: gone, slow",
        "m.yml line 12: alerting.rules.gone.metric: 'requests' needs a threshold: no section has one for requests, only for "
        "error_rate, p95_ms, availability, drift_share, accuracy_drop",
    ]


def test_schema_in_the_repository_is_the_one_of_the_models() -> None:
    assert (
        ROOT / SCHEMA
    ).read_text() == schema_text(), f"python -m brookside_mlops.monitoring_config > {SCHEMA}"
    assert (ROOT / FILE).read_text().startswith(f"# yaml-language-server: $schema={Path(SCHEMA).name}\n")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ((ROOT / FILE).read_text(), True),
        ("environment_profiles: {prod: {alerting: {rules: {latency: {severity: error}}}}}", True),
        ("environment_profiles: {prod: {alerting: {rules: {latency: {severity: loud}}}}}", False),
        ("environment_profiles: {production: {}}", False),
        ("data_drift: {warning_share: 1.5}", False),
        ("alerting: {rules: {latency: {metric: p95_ms}}}", False),
        ("alerting: {channels: {mail: {to: [nobody]}}}", False),
        ("alerting: {channels: {Mail: {}}}", False),
    ],
)
def test_schema_and_models_agree(text: str, right: bool) -> None:
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(yaml.safe_load(text)) == right
    if right:
        parse_yaml(MonitoringConfig, text, "m.yml")
    else:
        refused(text)


OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "performance_metrics": st.fixed_dictionaries(
            {}, optional={"max_error_rate": st.floats(0.03, 1), "max_p95_ms": st.floats(1600, 1e5)}
        ),
        "data_drift": st.fixed_dictionaries(
            {},
            optional={
                "warning_share": st.floats(0.1, 0.3),
                "methods": st.fixed_dictionaries({"psi": st.floats(0.1, 9)}),
            },
        ),
        "alerting": st.fixed_dictionaries(
            {},
            optional={
                "rules": st.fixed_dictionaries(
                    {"drift": st.fixed_dictionaries({"severity": st.just("error")})}
                )
            },
        ),
        "cost_monitoring": st.fixed_dictionaries(
            {}, optional={"monthly_budget": st.integers(0, 9999).map(float)}
        ),
    },
)


def leaves(content: Any, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(content, dict) or not content:
        return {place: content}
    return {key: one for name, value in content.items() for key, one in leaves(value, (*place, name)).items()}


@given(OVERRIDES)
@settings(deadline=None, max_examples=60)
def test_profile_differs_in_what_it_says_and_in_nothing_else(own: dict[str, Any]) -> None:
    config = parse_yaml(MonitoringConfig, yaml.safe_dump({"environment_profiles": {"prod": own}}), "m.yml")
    base, found = leaves(Profile().model_dump()), leaves(config.profile("prod").model_dump())
    said = {place: value for place, value in leaves(own).items() if not isinstance(value, dict)}
    assert {place: found[place] for place in said} == said
    assert {place: value for place, value in found.items() if place not in said} == {
        place: value for place, value in base.items() if place not in said
    }
    assert config.profile("staging") == Profile()


def test_money_is_decimal_also_where_yaml_has_a_float() -> None:
    config = parse_yaml(MonitoringConfig, "cost_monitoring: {monthly_budget: 657.10}", "m.yml")
    assert config.cost_monitoring.monthly_budget == Decimal("657.1")


def test_project_has_its_own_file_and_otherwise_that_of_the_package(tmp_path: Path) -> None:
    assert monitoring_config(tmp_path) == monitoring_config(ROOT)
    path = own_file(tmp_path, "data_drift: {warning_share: 0.2}\n")
    assert config_file(tmp_path) == path
    assert {one.name: one.threshold for one in rules_of(tmp_path, "prod")}["drift"] == 0.2


def test_package_that_is_built_brings_the_file_and_its_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path("setup.py")
    build = given["cmdclass"]["build_py"](setuptools.Distribution())
    build.build_lib = str(tmp_path)
    build.ensure_finalized()
    build.run()
    packed = tmp_path / "brookside_mlops" / "_project"
    for name in (FILE, SCHEMA):
        assert (packed / name).read_bytes() == (ROOT / name).read_bytes()


WORDS = st.text("abcdefg", min_size=1, max_size=3)
VALUES = st.one_of(
    st.integers(-9, 999),
    st.booleans(),
    WORDS,
    st.lists(WORDS, max_size=3),
    st.sampled_from(["a: b", "#", "", "1"]),
)
TREES = st.dictionaries(
    WORDS, st.one_of(VALUES, st.dictionaries(WORDS, VALUES, max_size=3)), min_size=1, max_size=4
)


@given(TREES, st.lists(WORDS, min_size=1, max_size=3), VALUES, st.sampled_from([None, False]))
@settings(deadline=None)
def test_edit_sets_one_value_and_keeps_every_comment(
    tree: dict[str, Any], place: list[str], value: Any, flow: bool | None
) -> None:
    lines = yaml.safe_dump(tree, default_flow_style=flow, sort_keys=False, width=1000).splitlines()
    text = "".join(f"{line}   # note {number}\n# between {number}\n" for number, line in enumerate(lines))
    wanted: Any = json.loads(json.dumps(tree))
    inner = wanted
    for key in place[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    inner[place[-1]] = value
    edited = set_value(text, place, value)
    assert yaml.safe_load(edited) == wanted
    gone = [
        line for line in text.splitlines() if line.startswith("# between") and line not in edited.splitlines()
    ]
    replaced = isinstance(
        yaml.safe_load(text).get(place[0]), dict | list
    )  # a block that is replaced takes its comments along
    assert not gone or replaced


def test_configuring_alerts_changes_those_values_and_no_other_line(tmp_path: Path) -> None:
    before = (ROOT / FILE).read_text()
    own_file(tmp_path, before)
    said = configure_alerts(
        tmp_path, emails=["ops@example.com", "ada@example.com"], drift=0.2, accuracy_drop=0.04
    )
    assert said[0] == f"wrote {FILE}" and len(said) == 7
    after = (tmp_path / FILE).read_text()
    old, new = before.splitlines(), after.splitlines()
    changed = sorted({line.split(":")[0].strip() for line in new if line not in old})
    assert changed == ["default_channels", "mail", "max_accuracy_drop", "resolve_threshold", "warning_share"]
    assert len(new) == len(old) + 1 and all("#" not in line or line.split("#", 1)[1] in after for line in old)
    rules = {one.name: one for one in rules_of(tmp_path, "prod")}
    assert (rules["accuracy"].threshold, rules["accuracy"].resolve_threshold) == (0.04, 0.024)
    assert all(one.channels == ("mail",) for one in rules.values())


def test_configuration_that_would_be_wrong_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"warning_share: 0.5 is above critical_share; allowed: up to 0.3"):
        configure_alerts(tmp_path, drift=0.5)
    assert not (tmp_path / FILE).exists()
    own_file(tmp_path, "data_drift: {warnin_share: 0.2}\n")
    with pytest.raises(InputError, match=r"line 1: data_drift.warnin_share: not a key here"):
        configure_alerts(tmp_path, drift=0.2)


def test_environment_with_a_value_of_its_own_is_said(tmp_path: Path) -> None:
    own_file(tmp_path, "environment_profiles: {prod: {data_drift: {warning_share: 0.1}}}\n")
    assert "prod keeps its own data_drift.warning_share: 0.1" in configure_alerts(tmp_path, drift=0.2)


def test_mail_addresses_reach_the_mail_service_and_the_password_stays_out_of_the_file(tmp_path: Path) -> None:
    configure_alerts(tmp_path, emails=["ops+ml@example.com", "ada@example.com"])
    environ = {
        VARIABLE: "jsons://hooks.example.com/x mailtos://me:s3cret@smtp.example.com?from=me@example.com&to=x@example.com"
    }
    alerting = monitoring_config(tmp_path).alerting
    (url,) = notify_environ(alerting, ["mail"], environ)[VARIABLE].split()
    service = Apprise.instantiate(url)
    assert sorted(address for _, address in service.targets) == ["ada@example.com", "ops+ml@example.com"]
    assert service.password == "s3cret" and "s3cret" not in (tmp_path / FILE).read_text()


def test_channel_without_a_variable_of_its_own_leads_to_the_common_one() -> None:
    alerting = Alerting.model_validate({"channels": {"on-call": {}}})
    common = {VARIABLE: "json://a.example.com"}
    assert notify_environ(alerting, ["on-call"], common)[VARIABLE] == common[VARIABLE]
    own = common | {"BROOKSIDE_NOTIFY_ON_CALL": "json://b.example.com"}
    assert notify_environ(alerting, ["on-call"], own)[VARIABLE] == "json://b.example.com"


def test_value_that_is_part_of_itself_is_named_with_its_line() -> None:
    (line,) = refused("logging: {level: info}\nalerting: &x {channels: *x}\n")
    assert "line 2" in line and "refers to itself" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alerting: {enabled: maybe}", "'maybe' does not fit; allowed: true or false"),
        ("cost_monitoring: {monthly_budget: lots}", "'lots' does not fit; allowed: an amount, as in 12.50"),
        ("cost_monitoring: {budget_alerts: 0.8}", "0.8 does not fit; allowed: a list, as in [a, b]"),
        ("performance_metrics: {max_p95_ms: }", "None does not fit; allowed: a number, as in 0.5"),
        ("alerting: [enabled]", "['enabled'] does not fit; allowed: lines of `key: value`"),
        (
            "alerting: {channels: {mail: {to: [foo]}}}",
            "'foo' is no address; allowed: one such as ops@example.com",
        ),
        ("performance_metrics: {schedule: 5}", "5 does not fit; allowed: text"),
    ],
)
def test_value_of_another_type_is_told_what_is_allowed(text: str, said: str) -> None:
    (line,) = refused(text + "\n")
    assert line.startswith("m.yml line 1: ") and line.endswith(said)


def test_share_of_a_budget_is_no_percentage() -> None:
    assert any(
        "budget_alerts" in line and "less than or equal to 5" in line
        for line in refused("cost_monitoring: {budget_alerts: [80]}\n")
    )
    assert refused("cost_monitoring: {budget_alerts: []}\n")
