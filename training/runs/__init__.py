"""A training run: what it is made from and what that lacks, its steps, its folder."""
