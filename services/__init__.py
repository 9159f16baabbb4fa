"""The services; each imports libs and its own rooms, never another service."""
