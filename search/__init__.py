"""A photo's vector in, places out: exact hierarchical search, offline runs, evaluation, audits of test sets."""
