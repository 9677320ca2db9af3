"""Write the results of a benchmark into a page of docs/."""

# Between these marks, a page of docs/ has the results of a benchmark.
BEGIN, END = "<!-- results: written by python -m benchmarks.{} -->", "<!-- end of results -->"


def filled(page: str, text: str, benchmark: str) -> str:
    """The page with the text between the two marks."""
    before, begin, rest = page.partition(BEGIN.format(benchmark))
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN!r} ... {END!r}")
    return f"{before}{begin}\n\n{text}\n{end}{after}"
