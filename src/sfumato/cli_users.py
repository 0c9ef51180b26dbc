"""`sfumato users`: who may use the server."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sfumato.cli_options import Options, with_server_data
from sfumato.errors import RequestError

Name = Annotated[str, typer.Argument(help="Letters, digits and . _ @ -", metavar="NAME")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input, one line.")
]
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

    users = read_users(options.settings().data)
    if not users:
        typer.echo("nobody yet; make one with: sfumato users add NAME", err=True)
    for user in users.values():
        means = [name for name in ("password", "token") if getattr(user, name)]
        typer.echo(f"{user.name}\t{user.role}\t{', '.join(means) or 'neither password nor token'}")


@with_server_data
def add(options: Options, name: Name, admin: Admin = False, password_stdin: PasswordStdin = False) -> None:
    """Make a user, or give one another role or password; asks for the password."""
    from sfumato.server.accounts import change_user, read_users

    data = options.settings().data
    first = not read_users(data)
    user = change_user(data, name, "admin" if admin else "user", _password(by_pipe=password_stdin))
    typer.echo(f"{user.name}\t{user.role}")
    if first:
        typer.echo("a server that runs asks everybody to log in from its next start on", err=True)


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


def _password(*, by_pipe: bool) -> str:
    """The new password, asked for twice, or read once. Raises RequestError: nobody is there to be asked."""
    if by_pipe:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise RequestError("no terminal to ask for the password at; pipe it in with --password-stdin")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return password
