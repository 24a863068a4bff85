"""`python -m t2f_dist.cli`, as `t2f-dist`."""

from t2f_dist.cli import main

main()
