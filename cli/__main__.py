"""`python -m cli` is `trade-engine`."""

from cli.main import main

if __name__ == "__main__":
    main()
