"""The helper of intermediate.py: shrinks the pictures that come in on its standard input, one after another.

Each way a picture (a grey PGM) goes behind a line with its length in bytes; 0 stands for "that is no picture".
"""

from __future__ import annotations

import sys

FACTOR = 8


def shrink(picture: bytes) -> bytes:
    """Return the picture at an eighth of its width and height; each pixel is the mean of 64."""
    header, _, pixels = picture.partition(b"\n")
    magic, width, height, white = header.split()
    if magic != b"P5":
        raise ValueError("no PGM")
    rows, columns = range(0, int(height), FACTOR), range(0, int(width), FACTOR)
    lines = [pixels[start : start + int(width)] for start in range(0, len(pixels), int(width))]
    means = bytes(
        sum(sum(line[x : x + FACTOR]) for line in lines[y : y + FACTOR]) // FACTOR**2 for y in rows for x in columns
    )
    return b"P5 %d %d %s\n%s" % (len(columns), len(rows), white, means)


def main() -> None:
    """Serve until the input ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    for length in requests:
        try:
            answer = shrink(requests.read(int(length)))
            answers.write(b"%d\n%s" % (len(answer), answer))
        except ValueError:
            answers.write(b"0\n")
        answers.flush()


if __name__ == "__main__":
    main()
