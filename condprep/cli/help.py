"""`--help` in plain text, under the headings that options were declared with: rich and pydantic would be most of its time."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


class Verb(TyperCommand):
    """A verb whose options stand under the heading of their `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if param.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Verbs(TyperGroup):
    """The command around the verbs, each with the whole line that says what it does."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        verbs = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.get_short_help_str(limit=1000)) for name, verb in verbs if verb])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Options before the verb that nobody gave are not there: typer would have pydantic say that text is text."""
        said = {word.partition("=")[0] for word in args}
        if args and args[0] not in ("--help", "-h"):
            self.params = [one for one in self.params if one.name == "version" or said.intersection(one.opts)]
        return list(super().parse_args(ctx, args))

    def get_help_option(self, ctx: Any) -> Any:
        """That help was not asked for is False: typer would have pydantic say what None is."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option
