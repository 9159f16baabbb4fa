"""The trade-engine command."""
