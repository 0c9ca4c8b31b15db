"""`python -m darts`."""

from darts.cli import main

raise SystemExit(main())
