"""`sfumato users`: who may use the server."""

from __future__ import annotations

from typing import Annotated

import typer

from sfumato.cli_options import Options, with_server_data

Name = Annotated[str, typer.Argument(help="Letters, digits and . _ @ -", metavar="NAME")]
Admin = Annotated[bool, typer.Option("--admin/--no-admin", help="Sees everybody's jobs, and the metrics.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    users = typer.Typer(no_args_is_help=True, help="Who may use the server: names, passwords, tokens.")
    app.add_typer(users, name="users")
    users.command("list")(show)
    for each in (add, token, remove):
        users.command()(each)


@with_server_data
def show(options: Options) -> None:
    """List the users, their roles, and what they come in with."""
    from sfumato.server.accounts import read_users

    for user in read_users(options.settings().data).values():
        means = [name for name in ("password", "token") if getattr(user, name)]
        typer.echo(f"{user.name}\t{user.role}\t{', '.join(means) or 'neither password nor token'}")


@with_server_data
def add(options: Options, name: Name, admin: Admin = False) -> None:
    """Make a user, or give one another role or password; asks for the password."""
    from sfumato.server.accounts import change_user

    password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    user = change_user(options.settings().data, name, "admin" if admin else "user", password)
    typer.echo(f"{user.name}\t{user.role}")


@with_server_data
def token(options: Options, name: Name) -> None:
    """Make a token for a user's programs, in place of an earlier one; it is shown this once."""
    from sfumato.server.accounts import new_token

    typer.echo(new_token(options.settings().data, name))


@with_server_data
def remove(options: Options, name: Name) -> None:
    """Remove a user; what it has made stays."""
    from sfumato.server.accounts import remove_user

    remove_user(options.settings().data, name)
    typer.echo(f"{name} is removed")
