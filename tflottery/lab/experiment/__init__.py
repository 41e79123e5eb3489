"""Experiment: a published comparison, run seed by seed."""
