"""`python -m wm_env.cli` is `wm-env`, for a checkout that is not installed."""

from wm_env.cli import main

main()
