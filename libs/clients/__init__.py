"""Typed clients of services that more than one other service calls."""
