"""The page that ``--isolate-html`` writes: one file, made of a run's document and nothing else."""
