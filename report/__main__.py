"""Make the tables of the README and of docs/results.md from the records in reference/.

    python -m experiment.report                             put each table into its place on the two pages
    python -m experiment.report --adopt results/quick       first take finished records over: into reference/quick
    python -m experiment.report --adopt results --as paper  likewise, into a folder that says their size

A place is a pair of lines `<!-- table: name -->` and `<!-- end of table -->`. The README has the largest size of each
experiment, at the paper's rates and at others; docs/results.md all of them.
"""

import re
from pathlib import Path

from experiment import cli
from experiment.errors import UserError
from experiment.files import write_atomically
from experiment.records import read_record
from experiment.tables import TABLES, Record, largest, markdown, read_records

PAGES = ("README.md", "docs/results.md")


def adopt(source: Path, target: Path) -> int:
    """Copy the finished records below `source` into `target`, under the same names; their number."""
    paths = [path for path in sorted(source.rglob("*.json")) if len(path.relative_to(source).parts) == 3]
    for path in paths:
        read_record(path)  # a damaged one is an error before it is anywhere else
        write_atomically(target / path.relative_to(source), path.read_bytes())
    return len(paths)


def _set_and_case(record: Record) -> tuple[str, str, str]:
    return record["experiment"], record["set"].split("/")[0], record["case"]


def page_tables(page: str, reference: Path) -> dict[str, str]:
    """The tables of a page, by name."""
    # Those of studies/ are not of the paper's settings.
    records = [record for record in read_records(reference) if not record["set"].startswith("step_size")]
    # The tables of section 4 have no column for the size of an experiment: there it is the paper's alone.
    records = [record for record in records if record["experiment"] != "1d" or record["set"] == "paper"]
    if page == "README.md":
        names = ("1d", "2d", "3d", "dvgo", "ngp")
        # With those in a folder within the set's, which are of the same size at other rates.
        shown = {_set_and_case(record) for name in names for record in largest(records, name)}
        records = [record for record in records if _set_and_case(record) in shown]
        return {name: markdown(make(records)._replace(unmeasured=())) for name, make in TABLES.items()}
    return {name: markdown(make(records)) for name, make in TABLES.items()}


def with_tables(text: str, tables: dict[str, str]) -> str:
    """A page's text with each table in its place."""
    def place(found: re.Match) -> str:
        name = found[1]
        if name not in tables:
            raise UserError(f"there is no table {name!r}; the tables are {', '.join(tables)}")
        return f"<!-- table: {name} -->\n{tables[name]}\n<!-- end of table -->"

    return re.sub(r"<!-- table: (.*?) -->\n.*?<!-- end of table -->", place, text, flags=re.DOTALL)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--reference", type=Path, default=Path("reference"), metavar="DIR", help="default: reference")
    parser.add_argument("--adopt", type=Path, metavar="DIR", help="a folder of results to take records from")
    parser.add_argument("--as", dest="name", metavar="NAME", help="their folder in reference (default: DIR's name)")
    parser.add_argument("--pages", type=Path, nargs="+", default=[Path(page) for page in PAGES], metavar="FILE",
                        help=f"where to put the tables (default: {' '.join(PAGES)})")
    args = parser.parse_args()
    if args.adopt:
        target = args.reference / (args.name or args.adopt.name)
        if not (count := adopt(args.adopt, target)):
            raise UserError(f"there is no finished record below {args.adopt}")
        print(f"took {count} records over into {target}")
    for page in args.pages:
        text = page.read_text(encoding="utf-8")
        write_atomically(page, with_tables(text, page_tables(page.name, args.reference)).encode())
        print(f"wrote {page}")


if __name__ == "__main__":
    cli.run(main)
