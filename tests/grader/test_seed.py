"""The class seed: drawn once, kept where nobody else reads, and never what a sandbox sees."""

import pytest

from grader import seed


def test_it_is_drawn_once_and_kept_for_its_owner_alone(tmp_path):
    drawn = seed.of_class(tmp_path / "one")
    assert seed.of_class(tmp_path / "one") == drawn
    assert len(drawn) == 32
    assert (tmp_path / "one" / seed.FILE).stat().st_mode & 0o077 == 0
    assert seed.of_class(tmp_path / "two") != drawn


def test_a_given_one_is_kept_and_another_is_refused(tmp_path):
    assert seed.of_class(tmp_path, "mine") == "mine"
    assert seed.of_class(tmp_path) == "mine"
    with pytest.raises(seed.SeedError, match="keeps another seed than --seed"):
        seed.of_class(tmp_path, "yours")


def test_a_sandbox_sees_the_units_seed_alone():
    seen = {seed.of_unit("mine", unit) for unit in ("01", "02")} | {seed.of_unit("yours", "01")}
    assert len(seen) == 3
    assert not any("mine" in s for s in seen)
