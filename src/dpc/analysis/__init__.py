"""The paper's figures of a run: which instances they show, what flows in them, drawings with data and tests."""
