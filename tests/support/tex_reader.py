"""Reads LaTeX as far as a table needs it: what would stop a run is an error here, where no LaTeX is installed."""

from __future__ import annotations

import re

KNOWN = set(
    re.findall(
        r"\w+",
        """
    begin end documentclass usepackage ifPDFTeX else fi DeclareRobustCommand uni caption label centering
    footnotesize resizebox ifdim width linewidth toprule midrule bottomrule emph textbf parbox raggedleft
    tiny scriptsize begingroup endgroup sloppy subsection item textbackslash textasciicircum textasciitilde
    textless textgreater textbar textquotedbl textasciigrave uparrow downarrow rightarrow leftarrow approx
    geq leq times pm infty Delta alpha beta eta rho sigma star circ dagger textendash textemdash ldots
    textquotedblleft textquotedblright textquoteleft cdot ss
""",
    )
)
TOKEN = re.compile(r"\\([A-Za-z]+|.)|([{}&$#%^_~])|([^\\{}&$#%^_~]+)", re.DOTALL)


def check(tex: str) -> dict[str, int]:
    """Number of each environment; AssertionError where a brace, environment, sign or row does not fit."""
    found: dict[str, int] = {}
    open_: list[str] = []
    math = False
    columns: list[int] = []  # of the tabulars that are open
    cells: list[int] = []
    tex = re.sub(r"(?<!\\)%.*", "", tex)
    position, depth = 0, 0
    while position < len(tex):
        match = TOKEN.match(tex, position)
        assert match, tex[position : position + 40]
        position = match.end()
        command, sign, _ = match.groups()
        if command in ("begin", "end"):
            name, position = _argument(tex, position)
            if command == "begin":
                open_.append(name)
                found[name] = found.get(name, 0) + 1
                if name == "tabular":
                    position = position + 3 if tex.startswith("[t]", position) else position
                    layout, position = _argument(tex, position)
                    columns.append(len(re.sub(r"@\{\}", "", layout)))
                    cells.append(1)
            else:
                assert open_, name
                assert open_.pop() == name, name
                if name == "tabular":
                    assert cells.pop() in (1, columns[-1])
                    columns.pop()
        elif command == "\\":
            assert columns, "a line end outside of a table"
            assert cells[-1] == columns[-1], f"{cells[-1]} cells in a row of {columns[-1]}: {tex[:position][-200:]}"
            cells[-1] = 1
            assert not re.match(r"\s*(\[(?!\d+pt\])|\*)", tex[position:]), "a row that begins with an option"
        elif command is not None and command.isalpha():
            assert command in KNOWN, command
        elif command is not None:
            assert command in "{}$&#%_,@", command
        elif sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            assert depth >= 0
        elif sign == "$":
            math = not math
        elif sign == "&":
            assert cells, "a cell end outside of a table"
            cells[-1] += 1
        elif sign == "^":
            assert math, "^ outside of mathematics"
        elif sign == "#":
            assert re.match(r"[12]", tex[position:]), "# in text"
        elif sign == "_":
            raise AssertionError("_ in text")
    assert not open_
    assert depth == 0
    assert not math
    plain = re.sub(r"\\uni\{[0-9A-F]{4,6}\}\{.\}", "", tex)
    foreign = {c for c in plain if not (c == "\n" or 0x20 <= ord(c) < 0x7F or 0xC0 <= ord(c) <= 0xFF)}
    assert not foreign, foreign
    return found


def _argument(tex: str, position: int) -> tuple[str, int]:
    """The group that begins at `position`, without its braces, and where it ends."""
    assert tex[position] == "{", tex[position : position + 20]
    depth, start = 0, position
    while True:
        depth += {"{": 1, "}": -1}.get(tex[position], 0)
        position += 1
        if depth == 0:
            return tex[start + 1 : position - 1], position
