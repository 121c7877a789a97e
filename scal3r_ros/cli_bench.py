"""scal3r bench: speed and memory on this machine."""

import typer

app = typer.Typer(help="Speed and memory on this machine.")


@app.callback()
def group() -> None:
    """Keeps `network` a command of its own."""


@app.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "help_option_names": [],
    }
)
def network(context: typer.Context) -> None:
    """Milliseconds per chunk by stage, new keyframes a second, share of the device's peak."""
    from scal3r_ros.network.bench import main

    main(context.args)
