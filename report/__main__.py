"""Fill the tables of the pages from the records in records/, and take finished runs over into records/.

    python -m report                                make the tables of docs/results.md anew
    python -m report --adopt results                first copy the finished records below a folder, or several

A page says what a table is made of: its kind, then folders of records/ in the order of the rows, as in

    <!-- table: images 2d/kodim05/device=cuda 2d/kodim05/batch=8192 -->
    <!-- end of table -->
"""

import re
from pathlib import Path

from data.errors import UserError
from harness import cli
from harness.files import write_atomically
from harness.records import IDENTITY, Run, read_record
from report.tables import TABLES, markdown, read_groups, table

PAGES = (Path("docs/results.md"),)


def adopt(source: Path, target: Path) -> int:
    """Copy the finished records below `source` to their places below `target`; their number.

    Raises:
        UserError: a damaged record, before any is copied; or no record at all.
    """
    paths = [path for path in sorted(source.rglob("*-seed*.json"))
             if not path.with_name(path.name.removesuffix("json") + "ckpt").exists()]  # else it is being trained again
    if not paths:
        raise UserError(f"there is no finished record below {source}")
    runs = [Run(target, **{key: record[key] for key in IDENTITY}) for record in map(read_record, paths)]
    for path, run in zip(paths, runs):
        write_atomically(run.path(".json"), path.read_bytes())
    return len(paths)


def with_tables(text: str, records: Path) -> str:
    """A page's text, with each table made anew."""
    def anew(found: re.Match) -> str:
        words = found[1].split()
        kind = " ".join(word for word in words if "/" not in word)
        if kind not in TABLES:
            raise UserError(f"there is no table {kind!r}; the tables are {', '.join(TABLES)}")
        rows = table(kind, read_groups(records, [word for word in words if "/" in word]))
        return f"<!-- table: {found[1]} -->\n{markdown(rows)}\n<!-- end of table -->"

    return re.sub(r"<!-- table: (.*?) -->\n.*?<!-- end of table -->", anew, text, flags=re.DOTALL)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--adopt", type=cli.folder, nargs="+", default=[], metavar="DIR", help="folders to take finished records from")
    parser.add_folders("records")
    add("--pages", type=cli.folder, nargs="+", default=PAGES, metavar="FILE", help="default: docs/results.md")
    args = parser.parse_args()
    for source in args.adopt:
        print(f"copied {adopt(source, args.records)} records from {source} to {args.records}")
    texts = {page: with_tables(page.read_text(encoding="utf-8"), args.records) for page in args.pages}
    for page, text in texts.items():
        write_atomically(page, text.encode())
        print(f"wrote {page}")


if __name__ == "__main__":
    cli.run(main)
