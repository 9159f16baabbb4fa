"""What two or more services need, one module per idea."""

from libs.compiled import prefer_compiled

prefer_compiled(__name__, __path__)
