"""The paper's analyses of a run as numbers: which instances, what flows in them, and what each figure shows of it."""
