"""Scores, submissions and plots."""
