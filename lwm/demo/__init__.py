"""The whole stack at laptop scale, through the commands a user would call."""
