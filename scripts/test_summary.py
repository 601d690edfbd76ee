"""Adds up JUnit files and prints one plain line, "N passed, N failed, N skipped"; exit code 0 only if all is well.

usage: test_summary.py STATUS FILE...
STATUS is 0 if every test program ended well. A missing or empty file counts as a failure: a runner that died reports
nothing.
"""

import sys
import xml.etree.ElementTree as ElementTree


def count(path):
    """Returns (passed, failed, skipped) of one JUnit file; (0, 1, 0) if it cannot be read or holds no test."""
    try:
        cases = list(ElementTree.parse(path).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        print(f"test_summary: {path}: {error}", file=sys.stderr)
        return 0, 1, 0
    if not cases:
        print(f"test_summary: {path}: no test ran", file=sys.stderr)
        return 0, 1, 0
    failed = sum(1 for case in cases if case.find("failure") is not None or case.find("error") is not None)
    skipped = sum(1 for case in cases if case.find("skipped") is not None)
    return len(cases) - failed - skipped, failed, skipped


def main(arguments):
    status, files = int(arguments[0]), arguments[1:]
    totals = [sum(column) for column in zip(*map(count, files), strict=True)]
    if status != 0 and totals[1] == 0:
        print("test_summary: a test program ended with an error although no test failed", file=sys.stderr)
        totals[1] = 1
    passed, failed, skipped = totals
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
