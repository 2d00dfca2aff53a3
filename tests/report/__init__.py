"""Tests of the report: its table in text and its page."""
