"""`python -m tenantd`."""

from tenantd.main import main

if __name__ == "__main__":
    main()
