"""What the command ``flatlib`` can do: its words, and what each of them does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from flatlib import __version__
from flatlib.lab import populations, pretrained
from flatlib.lab.experiments import EXPERIMENTS, SCALES, Outcome, configurations, run
from flatlib.lab.handout import handout
from flatlib.lab.manifest import REMEDY
from flatlib.lab.records import RecordError, default_results, records_of

WORKERS = 2  # unless others are asked for
POPULATION = "population-"  # in front of a population's name
DESCRIPTION = "Run the paper's experiments, see how far they are, hand out homework."


def parser() -> argparse.ArgumentParser:
    """The command's words; each sets ``command`` to the function that does it."""
    parser = argparse.ArgumentParser(prog="flatlib", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"flatlib {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="run an experiment, or go on with it")
    drawn = (f"{POPULATION}{name}" for name in populations.POPULATIONS)
    names = [*EXPERIMENTS, *drawn, pretrained.NAME]
    command.add_argument("name", choices=names, metavar="NAME", help="see: flatlib list")
    command.add_argument("--scale", choices=SCALES, help="of an experiment; by default smoke")
    command.add_argument("--steps", type=int, help="length, instead of the scale's own")
    command.add_argument("--seeds", type=seeds, help="such as 0,1,2, instead of the scale's own")
    command.add_argument("--networks", type=int, help="of a population, instead of all planned")
    command.add_argument("--images", type=Path, metavar="FOLDER", help="that published nets see")
    command.add_argument("--models", type=names_of_models, help="of timm, instead of every *vit*")
    command.add_argument("--random-weights", action="store_true", help="instead of published ones")
    command.add_argument("--workers", type=int, default=WORKERS, help="processes, one thread each")
    command.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler to send runs to")
    command.add_argument("--device", default="cpu", help="such as cuda: stacks runs of one shape")
    command.add_argument("--no-progress", action="store_true", help="draw no bars")
    command.set_defaults(command=_run)

    status = commands.add_parser("status", help="how far the archived and running runs are")
    status.add_argument("--scale", choices=(*SCALES, populations.FOLDER), help="only this one")
    status.set_defaults(command=_status)

    commands.add_parser("list", help="the experiments and populations").set_defaults(command=_list)

    chapter = commands.add_parser("handout", help="a chapter without its solutions, for students")
    chapter.add_argument("notebook", type=Path, help="such as notebooks/03-volume.ipynb")
    chapter.add_argument("file", type=Path, help="where to write it")
    chapter.set_defaults(command=_handout)

    assignment = commands.add_parser(
        "homework", help="exercises of chapters as the source of an nbgrader assignment"
    )
    assignment.add_argument(
        "notebooks", type=Path, nargs="+", help="such as notebooks/03-volume.ipynb"
    )
    assignment.add_argument("--output", type=Path, required=True, metavar="FILE")
    assignment.add_argument("--seed", type=int, default=0, help="another one makes other cases")
    assignment.set_defaults(command=_homework)

    for writer_or_reader in (command, status):
        writer_or_reader.add_argument(
            "--results", type=folder, default=default_results(), metavar="FOLDER"
        )
    return parser


def folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name of a folder is needed, got an empty one")
    return Path(text)


def seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def names_of_models(text: str) -> list[str]:
    return text.split(",")


def _run(options: argparse.Namespace) -> int:
    if options.name == pretrained.NAME:
        outcomes = _pretrained(options)
    elif options.name.startswith(POPULATION):
        outcomes = _population(options)
    else:
        outcomes = _experiment(options)
    for outcome in outcomes:
        print(f"{outcome.status:9} {outcome.run} {outcome.message}".rstrip())
    return 0 if all(outcome.status == "complete" for outcome in outcomes) else 1


TRAINED = {"scale": None, "steps": None, "seeds": None, "scheduler": None}
PRETRAINED = {"images": None, "models": None, "random_weights": False}


def _refuse(options: argparse.Namespace, who: str, defaults: Mapping[str, object]) -> None:
    """Refuse options that have no meaning for what is run."""
    for name, default in defaults.items():
        if getattr(options, name) != default:
            word = name.replace("_", "-")
            raise ValueError(f"{who} takes no --{word}: leave it out, see flatlib list")


def _pretrained(options: argparse.Namespace) -> list[Outcome]:
    _refuse(options, pretrained.NAME, {**TRAINED, "networks": None, "workers": WORKERS})
    if options.images is None:
        raise ValueError(f"{pretrained.NAME} needs --images FOLDER, the images to measure it on")
    return pretrained.run(
        options.images,
        options.models,
        random_weights=options.random_weights,
        results=options.results,
        device=options.device,
        progress=not options.no_progress,
    )


def _population(options: argparse.Namespace) -> list[Outcome]:
    _refuse(options, "a population", {**TRAINED, **PRETRAINED, "device": "cpu"})
    return populations.run(
        options.name.removeprefix(POPULATION),
        options.networks,
        results=options.results,
        workers=options.workers,
        progress=not options.no_progress,
    )


def _experiment(options: argparse.Namespace) -> list[Outcome]:
    _refuse(options, "an experiment", {"networks": None, **PRETRAINED})
    return run(
        options.name,
        options.scale or "smoke",
        seeds=options.seeds,
        steps=options.steps,
        results=options.results,
        workers=options.workers,
        scheduler=options.scheduler,
        device=options.device,
        progress=not options.no_progress,
    )


def _status(options: argparse.Namespace) -> int:
    if not options.results.is_dir():
        raise ValueError(f"there is no results folder {options.results}; flatlib run makes one")
    altered = 0
    records = list(records_of(options.results, options.scale))
    for record in records:
        try:
            manifest = record.read_manifest()
            if manifest is None:
                raise RecordError(f"{record.manifest_path} is missing. {REMEDY}")
            record.read_table_text(manifest)
            record.check_weights(manifest)
        except RecordError as fault:  # the others shall be listed all the same
            print(f"{record.scale:7} {'altered':9} {'':15} {record.run}")
            print(f"flatlib: {fault}", file=sys.stderr)
            altered += 1
            continue
        status = manifest["status"]
        if status == "running" and not record.at_work():
            status = "stopped"
        reached = f"{manifest['steps']}/{manifest['steps_asked']}"
        print(f"{record.scale:7} {status:9} {reached:>15} {record.run}")
    if not records:
        where = options.results / (options.scale or "")
        print(f"flatlib: there are no runs in {where}; flatlib run makes some", file=sys.stderr)
    return int(altered > 0)


def _handout(options: argparse.Namespace) -> int:
    n_exercises = handout(options.notebook, options.file)
    print(f"{options.file}: {n_exercises} exercises, no solutions")
    return 0


def _homework(options: argparse.Namespace) -> int:
    try:
        from flatlib.lab.homework import homework
    except ModuleNotFoundError as fault:
        raise ValueError(
            f"homework is written with nbformat ({fault}); "
            "install it with: pip install 'flatlib-sharpness[homework]'"
        ) from fault
    n_exercises = homework(options.notebooks, options.output, options.seed)
    print(f"{options.output}: {n_exercises} exercises for nbgrader, with their solutions")
    return 0


def _list(_: argparse.Namespace) -> int:
    for name, experiment in EXPERIMENTS.items():
        counts = ", ".join(f"{len(configurations(name, scale))} at {scale}" for scale in SCALES)
        print(f"{name:20} Fig. {experiment.figure:22} runs: {counts}")
    for name, population in populations.POPULATIONS.items():
        print(f"{POPULATION}{name} networks: {population.networks}. {population.title}")
    print(f"{pretrained.NAME} vision transformers of timm, on your own images: --images FOLDER")
    return 0
