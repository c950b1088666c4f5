"""Verdicts on what the sources claim, each given by the lecture cell that computed it; docs/CLAIMS.csv lists them."""

from IPython.display import display

CLAIM_MIME = "application/vnd.beyond-the-gradient.claim+json"
VERDICTS = ("holds", "in part", "not here", "not tried")


def verdict(claim: str, verdict: str, evidence: str) -> None:
    """Show and store the verdict on a row of CLAIMS.csv: one of VERDICTS, and in a short phrase the numbers
    behind it, or why it was not tried.

    The cell carries the tag "claim:ID", so that pages can link to it. ValueError for another verdict.
    """
    if verdict not in VERDICTS:
        raise ValueError(f"a verdict is one of {', '.join(VERDICTS)}; got {verdict!r}")
    data = {"claim": claim, "verdict": verdict, "evidence": evidence}
    display({CLAIM_MIME: data, "text/plain": f"Claim {claim}: {verdict} ({evidence})"}, raw=True)
