"""Finding methods by name, ours and other people's."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint

import pytest
from pydantic import ValidationError

from fedunlearn.errors import UserError
from fedunlearn.settings import Settings
from fedunlearn.unlearning import registry
from fedunlearn.unlearning.base import Unlearner
from fedunlearn.unlearning.registry import MethodInfo, method, methods, settings_for


def test_every_built_in_method_describes_itself():
    assert {"retrain", "finetune", "newton"} <= set(methods())
    for name, info in methods().items():
        assert info.name == name and method(name) is info
        assert info.summary and info.certifies
        assert set(info.levels) <= {"sample", "class", "client"} and info.levels
        assert issubclass(info.implementation, Unlearner) and issubclass(info.settings, Settings)
        assert info.implementation.unlearn is not Unlearner.unlearn


@pytest.mark.parametrize("name", sorted(methods()))
def test_settings_have_defaults_and_know_their_keys(name):
    kind = settings_for(name)
    assert isinstance(method(name).implementation(kind()), Unlearner)
    with pytest.raises(ValidationError):
        kind(no_such_key=1)


def test_an_unknown_method_is_told_with_the_nearest_one():
    with pytest.raises(UserError, match=r"unlearning.method = 'newtom' is not a known method.*'newton'.*allowed: "):
        method("newtom")
    with pytest.raises(UserError):
        settings_for("")


def test_a_method_without_an_answer_says_so():
    class Silent(Unlearner):
        pass

    with pytest.raises(TypeError, match="Silent does not say how it answers"):
        Silent().unlearn(None, None, None)


def test_others_add_methods_by_an_entry_point_and_cannot_replace_ours(monkeypatch):
    class Mine(Unlearner):
        def unlearn(self, network, request, situation):
            raise NotImplementedError

    module = types.ModuleType("somebodys_method")
    module.METHOD = MethodInfo("sieve", "somebody's method", ("sample",), Settings, Mine)
    monkeypatch.setitem(sys.modules, "somebodys_method", module)
    points = [EntryPoint(n, "somebodys_method", "fedunlearn.methods") for n in ("sieve", "newton")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "fedunlearn.methods" else [])
    method.cache_clear()
    try:
        assert method("sieve").implementation is Mine
        assert "sieve" in methods()
        assert method("newton").implementation is not Mine
    finally:
        method.cache_clear()
