"""``fedunlearn methods``: the unlearning methods, and the settings of one of them."""

from __future__ import annotations

from typing import Annotated

import typer

from fedunlearn.cli.options import console


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show the settings of this method.")] = None,
) -> None:
    """List the unlearning methods, or the settings of one."""
    from rich.table import Table
    from rich.text import Text

    from fedunlearn.unlearning import registry

    output = console()
    if name is None:
        table = Table("method", "levels", "certifies", "what it does")
        for info in registry.methods().values():
            table.add_row(info.name, *map(Text, (", ".join(info.levels), info.certifies, info.summary)))
        output.print(table)
        return

    from fedunlearn.validation import allowed, written

    table = Table(
        "key", "allowed", "default", "meaning", title=Text(f'[unlearning] method = "{name}"'), title_justify="left"
    )
    for key, field in registry.settings_for(name).model_fields.items():
        default = "needed" if field.is_required() else written(field.get_default(call_default_factory=True))
        shown = (allowed(field), "-" if default == "null" else default, field.description or "")
        table.add_row(key, *(Text(cell) for cell in shown))
    output.print(table)
