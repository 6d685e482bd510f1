"""`python -m batch` is `batch`."""

from batch.cli import main

if __name__ == "__main__":
    main(prog_name="batch")
