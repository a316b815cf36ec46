"""What the programs share: virtual time, scripted targets, what is left behind, reports."""
