"""The fault campaign: steady load, one fault a round, and after each the proof that nothing is lost or doubled."""
