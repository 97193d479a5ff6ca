"""Shared parts which know neither models nor data sets."""
