"""``fedunlearn methods``: what each unlearning method needs, enforces and certifies, and the settings of one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedunlearn.cli.options import console, facts

if TYPE_CHECKING:
    from rich.table import Table

    from fedunlearn.unlearning.registry import MethodInfo

SCHEMA = "fedunlearn/methods/1"
LEVELS = ("sample", "class", "client")
NETWORKS = ("centralized", "federated", "decentralized")


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this method and its settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the unlearning methods with what each needs, enforces and certifies, or show one with its settings."""
    from fedunlearn.unlearning import registry

    chosen = list(registry.methods().values()) if name is None else [registry.method(name)]
    if as_json:
        entries = [{**described(info), "settings": settings_of(info)} for info in chosen]
        typer.echo(json.dumps({"schema": SCHEMA, "methods": entries}))
        return
    output = console()
    for info in chosen:
        rows = {key: value for key, value in described(info).items() if value not in ("", [])}
        output.print(facts(str(rows.pop("method")), rows))
        output.print()
    if name is not None:
        output.print(_settings_table(chosen[0]))


def described(info: MethodInfo) -> dict[str, Any]:
    """Return what is said about a method, by name; ``not_defined`` lists levels and settings that are refused."""
    missing = [f"{level} level" for level in LEVELS if level not in info.levels]
    missing += [f"{network} setting" for network in NETWORKS if network not in info.networks]
    return {
        "method": info.name,
        "does": info.summary,
        "levels": list(info.levels),
        "networks": list(info.networks),
        "needs": info.needs or "nothing",
        "enforces": info.enforces or "nothing",
        "certifies": info.certifies,
        "not_defined": missing,
        "why": info.not_defined,
    }


def settings_of(info: MethodInfo) -> list[dict[str, str]]:
    """Return the settings of a method: key, allowed values, default and meaning, as texts."""
    from fedunlearn.validation import allowed, written

    rows = []
    for key, field in info.settings.model_fields.items():
        default = "needed" if field.is_required() else written(field.get_default(call_default_factory=True))
        shown = "-" if default == "null" else default
        rows.append({"key": key, "allowed": allowed(field), "default": shown, "meaning": field.description or ""})
    return rows


def _settings_table(info: MethodInfo) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = Text(f'[unlearning] method = "{info.name}"')
    table = Table("key", "allowed", "default", "meaning", title=title, title_justify="left")
    for row in settings_of(info):
        table.add_row(*(Text(cell) for cell in row.values()))
    return table
