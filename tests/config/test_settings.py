"""Settings: checked, merged, written and read back."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from everstep.config.cadence import Cadence
from everstep.config.load import changes, dump, parse_assignments, read_hparams, resolve
from everstep.config.policy import mirror_policy
from everstep.config.schema import Config
from everstep.errors import UserError
from everstep.versions.retention import Policy


def test_what_is_dumped_is_read_back_the_same(tmp_path) -> None:
    config = resolve(None, {"optim": {"learning_rate": 3e-7}, "versions": {"every": "300,10min"}, "base": "b"})
    (tmp_path / "hparams.yaml").write_text(dump(config))
    assert read_hparams(tmp_path / "hparams.yaml") == config
    assert resolve(str(tmp_path / "hparams.yaml"), {}) == config


def test_every_field_has_a_sentence_of_help() -> None:
    for name, section in Config.model_fields.items():
        for key, field in section.annotation.model_fields.items():
            assert field.description, f"{name}.{key}"
            assert field.description.endswith("."), f"{name}.{key}"


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [("300", 300, None), ("300 steps", 300, None), ("10min", None, 600), ("1h, 50", 50, 3600), ("90s", None, 90)],
)
def test_cadences_are_read(text: str, steps: int | None, seconds: float | None) -> None:
    cadence = Cadence.parse(text)
    assert (cadence.steps, cadence.seconds) == (steps, seconds)
    assert Cadence.parse(cadence) == cadence


@pytest.mark.parametrize("text", ["", "0", "-3", "often", "3.5", "10min,5min", "300,300", "1 fortnight", "0min"])
def test_what_is_no_cadence_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither steps nor time"):
        Cadence.parse(text)


def test_an_interval_may_be_left_to_the_training_in_every_layer(tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("versions: {every: auto}\n")
    for config in (
        resolve(str(tmp_path / "c.yaml"), {}),
        resolve(None, {"versions": {"every": "auto"}}),
        resolve(None, {}, ["versions.every=Auto"]),
    ):
        assert config.versions.every.is_auto
        (tmp_path / "hparams.yaml").write_text(dump(config))
        assert read_hparams(tmp_path / "hparams.yaml") == config
    assert not resolve(None, {}).versions.every.is_auto
    assert "every: auto" in dump(config)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("versions.every=auto,300", "has auto beside another interval; write 300, 10min, 300,10min or auto"),
        ("versions.every=automatic", "neither steps nor time"),
        ("versions.bytes_a_day=0GB", "no version at all"),
        ("versions.bytes_a_day=much", "write it as 50GB"),
        ("keeper.mtbf=0h", "less than a second"),
        ("keeper.mtbf=often", "is not understood"),
    ],
)
def test_what_no_interval_can_be_found_from_is_refused(setting: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        resolve(None, {}, [setting])


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_a_cadence_survives_being_written(steps: int, minutes: int) -> None:
    written = str(Cadence(steps, minutes * 60.0))
    assert (Cadence.parse(written).steps, Cadence.parse(written).seconds) == (steps, minutes * 60.0)


def test_assignments_are_yaml_and_may_use_dashes() -> None:
    assert parse_assignments(["optim.max-grad-norm=null", "data.flip_probability=0.5", "base=x"]) == {
        "optim": {"max_grad_norm": None},
        "data": {"flip_probability": 0.5},
        "base": "x",
    }


def test_a_section_may_be_its_path_alone_in_any_layer(tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("data: photos\n")
    config = resolve(str(tmp_path / "c.yaml"), {"data": {"crop": "random"}}, ["base=b"])
    assert (config.data.path, config.data.crop, config.base.path) == ("photos", "random", "b")


def test_all_faults_are_said_at_once() -> None:
    with pytest.raises(UserError) as refused:
        resolve(None, {"optim": {"batch_size": 0, "beta1": 2}, "data": {"crop": "top"}})
    assert all(key in str(refused.value) for key in ("optim.batch_size", "optim.beta1", "data.crop"))


def test_changes_name_both_values() -> None:
    before, after = resolve(None, {}), resolve(None, {"optim": {"seed": 4}})
    assert changes(before, after) == {"optim.seed": (0, 4)}


def test_presets_are_valid_and_named_in_errors() -> None:
    assert yaml.safe_load(dump(resolve("circles", {})))["optim"]["batch_size"] == 16
    with pytest.raises(UserError, match="nor a preset of this name"):
        resolve("squares", {})


def test_no_section_has_the_name_of_a_verb() -> None:
    from everstep.cli.main import VERBS

    # `everstep keep` and `everstep mirror` and the sections of these names are told apart: the verbs take no settings.
    assert set(Config.model_fields) & set(VERBS) == {"keep", "mirror"}


@pytest.mark.parametrize("text", ["", "last", "last five", "newest 3", "last 3, last 4", "last 3; daily 2", "every x"])
def test_a_mirrors_policy_that_is_not_understood_is_said(text: str) -> None:
    with pytest.raises(UserError, match="write it as everything, or as last 5, daily 7"):
        resolve(None, {"mirror": {"keep": text}})


def test_a_mirrors_policy_is_what_is_written_and_no_more() -> None:
    keep = resolve(None, {"mirror": {"keep": "last 5, every 6h, within 2days, budget 50GB"}}).mirror.keep
    expected = Policy(last=5, best=0, every_versions=None, every_s=21600, within_s=172800, budget_bytes=50 * 10**9)
    assert mirror_policy(keep, "benefit") == expected
    assert mirror_policy(resolve(None, {}).mirror.keep, "benefit") is None
    assert resolve(None, yaml.safe_load(dump(resolve(None, {"mirror": {"keep": keep}})))).mirror.keep == keep


def test_settings_of_another_release_are_left_out_where_a_version_is_read() -> None:
    from everstep.config.load import known_part

    settings = resolve(None, {}).model_dump(mode="json")
    later = {**settings, "optim": {**settings["optim"], "warp": 9}, "flux": {"a": 1}}
    assert known_part(later) == settings
