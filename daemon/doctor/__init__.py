"""Looks over an installation and says what to do. Changes nothing, starts nothing."""
