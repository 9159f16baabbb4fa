"""Long runs that have make targets of their own."""
