#!/usr/bin/env python3
"""Judges a conformance report: conformance.py WHO REPORT LOG

A case of tests/conformance-not-yet may fail; any other failure, and a listed case that passes, counts as failed.
The last line is `N passed, N failed`.
"""

import json
import os
import sys


def main():
    who, report_path, log_path = sys.argv[1:]
    if not os.path.exists(report_path):
        sys.stdout.write(open(log_path, errors="replace").read()[-4000:])
        print("the conformance runner left no report\n0 passed, 1 failed")
        return
    with open(f"{os.path.dirname(os.path.abspath(__file__))}/conformance-not-yet") as file:
        lines = [line.split("#")[0].split() for line in file]
    kind = "root" if who == "root" else "user"
    not_yet = {line[0] for line in lines if line and kind in (line[1:] or ["root", "user"])}
    with open(report_path) as file:
        reports = json.load(file)
    tried = [report for report in reports if report["status"] != "SKIP"]
    passed = [report for report in tried if report["status"] == "PASS"]
    broken = [report for report in tried if report["status"] == "FAIL" and report["name"] not in not_yet]
    for report in broken:
        print(f"FAIL {report['name']}")
        for line in report["lines"]:
            print(f"     {line}")
    surprises = [report["name"] for report in passed if report["name"] in not_yet]
    for name in surprises:
        print(f"passes now, so take it off tests/conformance-not-yet: {name}")
    print(f"conformance as {who}: {len(passed)} of {len(tried)} cases pass, {len(reports) - len(tried)} skipped")
    print(f"{len(passed) - len(surprises)} passed, {len(broken) + len(surprises)} failed")


if __name__ == "__main__":
    main()
