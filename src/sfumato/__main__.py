"""`python -m sfumato`."""

from sfumato.cli_entry import main

if __name__ == "__main__":
    main()
