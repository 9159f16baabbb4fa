"""The front door: admit, record, reserve, submit, answer."""
