"""Subcommand that inspects one weight matrix: how much of its energy SVD keeps at each rank."""

from __future__ import annotations

import argparse

from offcomp.cli.inputs import Verb, describe, emit
from offcomp.cli.text import format_table
from offcomp.errors import InputError
from offcomp.files import home_folder

LISTED = 12
COLUMNS = ["rank", "singular_value", "energy_kept", "relative_error", "stored_parameters", "random_energy_kept"]


def add_verbs(verb: Verb) -> None:
    """Add `inspect`."""
    parser = verb("inspect", inspect)
    parser.add_argument("model", help="catalogue name, folder or hub id")
    parser.add_argument("module", help="name of a weight matrix, as listed by 'offcomp modules', such as query.3")
    parser.add_argument(
        "--rank",
        type=int,
        help="rank to report on; default: the rank at which SVD stores half as many parameters as the matrix",
    )


def inspect(arguments: argparse.Namespace) -> None:
    """Show how much of a weight matrix's energy SVD keeps at each rank, and save the data that the app plots."""
    import numpy as np

    from offcomp.planning.matrix_view import view_path
    from offcomp.planning.matrix_view_fit import make_view
    from offcomp.planning.spectrum import MatrixSpectrum
    from offcomp.results.inspect import break_even, spectrum_answer, spectrum_table

    info = describe(arguments.model)
    spec = info.module(arguments.module)
    max_rank = min(spec.shape)
    rank = max(1, int(break_even(*spec.shape) / 2)) if arguments.rank is None else arguments.rank
    if not 1 <= rank <= max_rank:
        raise InputError(f"--rank must be between 1 and {max_rank} for a {spec.rows} x {spec.cols} matrix, not {rank}")
    home = home_folder()
    view = make_view(info, spec, home)
    table = spectrum_table(MatrixSpectrum(*spec.shape, view.values))
    document = {
        "model": info.model,
        "module": spec.name,
        "rows": spec.rows,
        "cols": spec.cols,
        "break_even_rank": break_even(*spec.shape),
        "rank": rank,
        "answer": spectrum_answer(table, spec.name, rank),
        "file": str(view_path(info, spec, home)),
        "ranks": table.to_dict("records"),
    }
    listed = table.iloc[np.unique(np.linspace(0, max_rank - 1, min(max_rank, LISTED)).round().astype(int))]
    emit(arguments, document, lambda: f"{document['answer']}\n\n{format_table(listed[COLUMNS].to_dict('records'))}")
