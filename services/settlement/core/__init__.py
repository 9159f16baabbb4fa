"""Settlement's decisions, pure: which trades are missing, and how far behind settling is."""
