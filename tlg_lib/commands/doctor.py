"""`tlg doctor`: what was found on this machine and what to do about the rest."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o


def command(
    preset: Annotated[str, typer.Argument(help="what this preset lacks here; default: all that there is")] = "",
    json: o.Json = False,
    gradients: Annotated[
        str,
        typer.Option(
            help="which parameters of this variant get a gradient, nothing else: extended, corrected, released or hsnet"
        ),
    ] = "",
    backbone: Annotated[str, typer.Option(help="with --gradients: resnet50, vgg16 or efficientnet_lite0")] = "resnet50",
) -> None:
    """Look at what is here, with a remedy for what is missing. Versions, device, weights, data, disk and folders.

    Exit code 3: something will fail as things are.
    """
    from ..errors import TLGError
    from ..machine.terminal import console, shown
    from .examine import NOTE, OK, PROBLEM, examine, library_place

    if gradients:
        from ..released.gradients import print_report

        print_report(gradients, backbone)
        return
    findings = examine(preset)
    problems = sum(f.state == PROBLEM for f in findings)
    failed = TLGError(f"{problems} problem{'s' if problems > 1 else ''} found (above, each with its remedy)", code=3)
    if json:
        o.print_json({"library": library_place(), "findings": [vars(finding) for finding in findings]})
        if problems:
            raise failed
        return
    screen = console(soft_wrap=True, highlight=False)
    marks = {OK: "[green]ok     [/green]", NOTE: "[yellow]note   [/yellow]", PROBLEM: "[red]problem[/red]"}
    screen.print(shown(library_place()))
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            screen.print(f"\n[bold]{area}[/bold]")
        screen.print(f"  {marks[finding.state]} {shown(finding.text)}")
        if finding.remedy:
            screen.print(f"          -> {shown(finding.remedy)}")
    if problems:
        raise failed
    print(f"\neverything that the {preset or 'mini'} preset needs is here")
