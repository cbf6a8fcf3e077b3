"""`python -m app` is the `mutation-firewall` command."""

from app.cli import main

if __name__ == "__main__":
    main()
