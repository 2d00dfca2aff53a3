"""Settings: validated, and every mistake is named at once."""

from __future__ import annotations

import pytest

from dpc.errors import UserError
from dpc.settings import Settings, parse_settings
from dpc.zoo import SETTINGS


def test_texts_override_defaults() -> None:
    settings = parse_settings(
        ["method.gamma=25", "tuning.steps=none", "tuning.init=random", "method.mask_key=false"],
        {"tuning": {"length": 7, "steps": 5}},
    )
    assert (settings.method.gamma, settings.tuning.length, settings.tuning.steps) == (25.0, 7, None)
    assert settings.tuning.init == "random"
    assert settings.method.mask_key is False


def test_every_mistake_is_named_at_once_in_one_line() -> None:
    mistakes = {
        "method.gamma=101": "method.gamma",
        "tuning.length=0": "tuning.length",
        "tuning.learning_rate=inf": "tuning.learning_rate",
        "tuning.init=zeros": "tuning.init",
        "decoding.batch_size=many": "decoding.batch_size",
        "method.unknown=1": "method.unknown",
        "gamma=1": "'gamma=1'",
        "other.gamma=1": "'other.gamma=1'",
    }
    with pytest.raises(UserError) as caught:
        parse_settings(list(mistakes), {})
    assert all(name in str(caught.value) for name in mistakes.values())
    assert "\n" not in str(caught.value)


def test_shallow_layers_must_be_in_order() -> None:
    with pytest.raises(UserError, match="shallow_start"):
        parse_settings(["method.shallow_start=0.9"], {})


def test_defaults_are_the_papers() -> None:
    settings = Settings()
    assert (settings.tuning.length, settings.tuning.learning_rate, settings.method.gamma) == (100, 1e-3, 10.0)
    assert parse_settings([], SETTINGS).method == settings.method


def test_every_setting_says_why() -> None:
    for group in Settings.model_fields.values():
        fields = group.annotation.model_fields  # type: ignore[union-attr]
        assert all(field.description for field in fields.values())
