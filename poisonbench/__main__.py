"""`python -m poisonbench`."""

from poisonbench.cli import main

if __name__ == "__main__":
    main()
