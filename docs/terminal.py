#!/usr/bin/env python3
"""Draw what a command shows on a terminal as an SVG picture.

In: a command, which runs on a pseudo-terminal. Out: an SVG file with its text, colours and backgrounds.
Escape sequences are those of ECMA-48: SGR (colours, bold, underline) is drawn, everything else is left out.

    docs/terminal.py --columns 100 --output docs/terminal.svg -- chemtag tag examples/abstract.txt

Needs Python 3.9 on Linux or macOS and nothing else.
"""

import argparse
import fcntl
import os
import pty
import re
import shlex
import struct
import sys
import termios
import unicodedata
from dataclasses import dataclass, replace
from html import escape

FONT_SIZE = 14
CELL_WIDTH = 8.4  # Advance of a monospaced font of this size: 0.6 em.
LINE_HEIGHT = 20
MARGIN = 16
FONTS = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
FOREGROUND, BACKGROUND = "#d8dee9", "#1d2129"

# The first 16 colours are the terminal's own choice; 16 to 255 are defined by xterm (6 x 6 x 6 cube, then greys).
BASIC = (
    "#2e3440 #d5606c #8fbf6f #e0c06a #6f9fd8 #b48ead #6fc3cf #d8dee9 "
    "#5b6478 #e8808a #a9d58c #f0d68c #8fb8e8 #cba6c7 #8fd8e2 #ffffff"
).split()

# Groups: parameters and final byte of a control sequence; or an operating system command; or another escape.
ESCAPE = re.compile(r"\x1b(?:\[([0-9;:?<=>]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")


@dataclass(frozen=True)
class Style:
    """How a character is drawn; colours are `#rrggbb`, or None for the picture's own."""

    colour: "str | None" = None
    background: "str | None" = None
    bold: bool = False
    italic: bool = False
    underline: bool = False
    reverse: bool = False


def palette(index):
    """Colour 0 to 255 of xterm's palette."""
    if index < 16:
        return BASIC[index]
    if index < 232:
        index -= 16
        red, green, blue = (0 if level == 0 else 55 + 40 * level for level in (index // 36, index // 6 % 6, index % 6))
        return f"#{red:02x}{green:02x}{blue:02x}"
    grey = 8 + 10 * (index - 232)
    return f"#{grey:02x}{grey:02x}{grey:02x}"


def apply_sgr(style, parameters):
    """The style after `CSI parameters m`."""
    codes = [int(code) if code else 0 for code in re.split("[;:]", parameters)]
    while codes:
        code = codes.pop(0)
        if code == 0:
            style = Style()
        elif code in (1, 3, 4, 7):
            style = replace(style, **{{1: "bold", 3: "italic", 4: "underline", 7: "reverse"}[code]: True})
        elif code in (22, 23, 24, 27):
            style = replace(style, **{{22: "bold", 23: "italic", 24: "underline", 27: "reverse"}[code]: False})
        elif code in (38, 48):
            colour = None
            if codes[:1] == [5] and len(codes) > 1 and codes[1] < 256:
                colour, codes = palette(codes[1]), codes[2:]
            elif codes[:1] == [2] and len(codes) > 3 and max(codes[1:4]) < 256:
                colour, codes = "#{:02x}{:02x}{:02x}".format(*codes[1:4]), codes[4:]
            style = replace(style, **{"colour" if code == 38 else "background": colour})
        elif code == 39:
            style = replace(style, colour=None)
        elif code == 49:
            style = replace(style, background=None)
        else:
            for first, field, bright in ((30, "colour", 0), (40, "background", 0), (90, "colour", 8), (100, "background", 8)):
                if first <= code < first + 8:
                    style = replace(style, **{field: palette(code - first + bright)})
    return style


def parse(output):
    """The output as lines; a line is a list of (text, style)."""
    lines, style, at = [[]], Style(), 0

    def write(text):
        for number, part in enumerate(text.replace("\r\n", "\n").expandtabs(8).split("\n")):
            if number:
                lines.append([])
            part = "".join(c for c in part if unicodedata.category(c) != "Cc")
            if part:
                lines[-1].append((part, style))

    for match in ESCAPE.finditer(output):
        write(output[at : match.start()])
        if match[2] == "m":
            style = apply_sgr(style, match[1])
        at = match.end()
    write(output[at:])
    while lines and not lines[-1]:
        lines.pop()
    return lines


def columns_of(text):
    """Columns that a text takes: combining marks none, East Asian wide characters two (Unicode Standard Annex 11)."""
    width = 0
    for c in text:
        if unicodedata.category(c) in ("Mn", "Me", "Cf"):
            continue
        width += 2 if unicodedata.east_asian_width(c) in "WF" else 1
    return width


def draw(lines, columns):
    """The SVG of parsed lines."""
    width = round(2 * MARGIN + columns * CELL_WIDTH)
    height = 2 * MARGIN + len(lines) * LINE_HEIGHT
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>',
        f'<g font-family="{FONTS}" font-size="{FONT_SIZE}">',
    ]
    for row, line in enumerate(lines):
        column = 0
        top = MARGIN + row * LINE_HEIGHT
        for text, style in line:
            taken = columns_of(text)
            x, length = MARGIN + column * CELL_WIDTH, taken * CELL_WIDTH
            column += taken
            colour, background = style.colour or FOREGROUND, style.background
            if style.reverse:
                colour, background = style.background or BACKGROUND, colour
            if background:
                svg.append(f'<rect x="{x:.1f}" y="{top}" width="{length:.1f}" height="{LINE_HEIGHT}" rx="3" fill="{background}"/>')
            if not text.strip() and not style.underline:
                continue
            extra = ' font-weight="bold"' * style.bold + ' font-style="italic"' * style.italic
            extra += ' text-decoration="underline"' * style.underline
            shown = escape(text).replace(" ", "\u00a0")
            # No-break spaces, since SVG joins plain ones. The length keeps columns in line whatever font the viewer has.
            svg.append(
                f'<text x="{x:.1f}" y="{top + 14.5}" textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs" '
                f'fill="{colour}"{extra}>{shown}</text>'
            )
    return "\n".join(svg + ["</g>", "</svg>", ""])


def run(command, columns):
    """What a command writes to a terminal of so many columns, and its exit code."""
    child, terminal = pty.fork()
    if child == 0:
        # The size is set before the command starts, so that it never sees another one.
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        os.environ["TERM"] = "xterm-256color"
        os.environ.pop("NO_COLOR", None)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}")
            os._exit(127)
    output = b""
    while True:
        try:
            portion = os.read(terminal, 65536)
        except OSError:  # Linux reports the end of a pseudo-terminal as an error.
            break
        if not portion:
            break
        output += portion
    return output.decode("utf-8", "replace"), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    parser = argparse.ArgumentParser(description="Draw what a command shows on a terminal as an SVG picture.")
    parser.add_argument("--columns", type=int, default=100, help="width of the terminal (default: 100)")
    parser.add_argument("--output", default="docs/terminal.svg", help="the picture (default: docs/terminal.svg)")
    parser.add_argument("--prompt", help="show this command line above the output instead of the one that was run")
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    arguments = parser.parse_args()
    output, code = run(arguments.command, arguments.columns)
    if code != 0:
        sys.exit(f"{shlex.join(arguments.command)} ended with code {code}:\n{output}")
    prompt = arguments.prompt or shlex.join(arguments.command)
    lines = [[("$ ", Style(colour=BASIC[2])), (prompt, Style(bold=True))], *parse(output)]
    picture = draw(lines, arguments.columns)
    unfinished = arguments.output + ".part"
    with open(unfinished, "w", encoding="utf-8") as file:
        file.write(picture)
    os.replace(unfinished, arguments.output)


if __name__ == "__main__":
    main()
