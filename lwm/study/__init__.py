"""Studies: several pretraining runs that differ in one thing, judged alike."""
